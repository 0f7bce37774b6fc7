// Convolutions of stride 1 with 64 channels on 32x32 images and 128 on 16x16, forward and back, and
// the first layer's: see hopper.cu for how pixels lie in shared memory.

// Images of `SIDE` x `SIDE` pixels with `CHANNELS` channels. A block has two groups, for strips of one
// of them and 64 outputs of each.
template <int CHANNELS, int SIDE> struct Shape {
    static constexpr int PITCH = SIDE + 1;
    static constexpr int OUTPUTS = CHANNELS;
    static constexpr int SLICES = CHANNELS / SLICE;
    static constexpr int ROWS = STRIP / PITCH;  // of pixels in a strip
    static constexpr int GROUPS = 2;
    static constexpr int STRIPS = GROUPS / SLICES;
    static constexpr int BAND = STRIPS * ROWS;  // rows of a block
    static constexpr int BANDS = SIDE / BAND;
    // At once on a multiprocessor: while one copies or stores, another, mostly of another network, multiplies.
    static constexpr int BLOCKS = 2;
    static constexpr int PIXELS = tile((STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 2);
    // Taps of the weights that are there at once, in turns.
    static constexpr int SLOTS = SLICES == 1 ? 5 : 2;
    static constexpr int TAP = CHANNELS * ROW;  // bytes of a slice of one
    // Places in shared memory. Results lie where the weights were.
    static constexpr int WEIGHTS = SLICES * PIXELS;
    static constexpr int BARRIERS = WEIGHTS + SLOTS * SLICES * TAP;
    static_assert(WEIGHTS + GROUPS * STRIP * ROW <= BARRIERS, "strips fit there");
    static constexpr int BYTES = BARRIERS + 8 * (STRIPS + 2 * SLOTS);
};

// The result of a convolution with `weights`, (output, tap, input), of one band of an image by each
// block; with BACK the input's gradient from the output's: the other way round, taps in reverse.
// With FORWARD the sums over each band of the results less `shift`, and of their squares, are taken
// on the way if there are `parts`, (2, channels, blocks); with FIXED it is normalized; with BACK it is
// written or, with `accumulate`, added to what is there, and let through if that has gates.
template <int CHANNELS, int SIDE, Kind KIND>
__device__ __forceinline__ void convolve(
    const CUtensorMap* maps, const CUtensorMap* weights, bf16* output, const float* shift,
    float* parts, const Normal& normal, int accumulate, const Through& through)
{
    constexpr bool BACK = KIND == Kind::BACK;
    typedef Shape<CHANNELS, SIDE> S;
    unsigned char* memory = shared_memory();
    uint32_t pixels = shared_address(memory);
    uint32_t strips_there = pixels + S::BARRIERS;
    uint32_t taps_there = strips_there + 8 * S::STRIPS;
    uint32_t slots_free = taps_there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int in_group = thread % GROUP;
    int image = blockIdx.x / S::BANDS;
    int top = blockIdx.x % S::BANDS * S::BAND;

    if (thread == 0) {
        for (int i = 0; i < S::STRIPS; ++i) {
            make_barrier(strips_there + 8 * i, 1);
        }
        for (int i = 0; i < S::SLOTS; ++i) {
            make_barrier(taps_there + 8 * i, 1);
            make_barrier(slots_free + 8 * i, S::GROUPS);
        }
        publish_barriers();
    } else if (thread >= WARP && thread < WARP + 8 * S::SLICES) {
        // The padding before the first row: the others have theirs from the row above.
        int i = thread - WARP;
        reinterpret_cast<uint4*>(memory + i / 8 * S::PIXELS)[i % 8] = make_uint4(0, 0, 0, 0);
        publish_writes();
    }
    __syncthreads();

    // The pixels that a strip needs beyond those of the one before: two rows of pixels at a time,
    // each with the padding behind it.
    auto copy_strip = [&](int strip) {
        int first = strip ? S::ROWS / 2 * strip + 1 : 0;
        int last = S::ROWS / 2 * (strip + 1);
        uint32_t barrier = strips_there + 8 * strip;
        announce(barrier, (last - first + 1) * S::SLICES * 2 * S::PITCH * ROW);
        for (int pair = first; pair <= last; ++pair) {
            for (int slice = 0; slice < S::SLICES; ++slice) {
                uint32_t to = pixels + slice * S::PIXELS + (1 + pair * 2 * S::PITCH) * ROW;
                copy_box(to, maps, slice * SLICE, 0, top + 2 * pair - 1, image, barrier);
            }
        }
    };
    auto copy_weights = [&](int tap) {
        int slot = tap % S::SLOTS;
        uint32_t barrier = taps_there + 8 * slot;
        announce(barrier, S::SLICES * S::TAP);
        for (int slice = 0; slice < S::SLICES; ++slice) {
            uint32_t to = pixels + S::WEIGHTS + (slot * S::SLICES + slice) * S::TAP;
            copy_tap(to, weights, slice * SLICE, BACK ? TAPS - 1 - tap : tap, barrier);
        }
    };
    // One thread, of the group that begins last, asks for all copies.
    bool copies = thread == (S::GROUPS - 1) * GROUP;
    if (copies) {
        copy_strip(0);
        for (int tap = 0; tap < S::SLOTS; ++tap) {
            copy_weights(tap);
        }
        for (int strip = 1; strip < S::STRIPS; ++strip) {
            copy_strip(strip);
        }
    }
    __syncwarp();

    int strip = group / S::SLICES;
    int slice = group % S::SLICES;  // of the outputs
    Moments moments(KIND == FORWARD && parts, shift, slice);
    Passing passing;
    Normalizing normalizing;
    if (BACK) {
        passing = Passing(through, slice * SLICE);
    }
    if (KIND == FIXED) {
        normalizing = Normalizing(normal, CHANNELS, slice);
    }
    uint32_t start = pixels + strip * S::ROWS * S::PITCH * ROW;
    for (int needed = 0; needed <= strip; ++needed) {
        await_turn(strips_there + 8 * needed, 0);
    }
    float sums[EIGHTHS][4];
#pragma unroll 1
    for (int tap = 0; tap < TAPS; ++tap) {
        int slot = tap % S::SLOTS;
        await_turn(taps_there + 8 * slot, tap / S::SLOTS);
        uint32_t filter = pixels + S::WEIGHTS + slot * S::SLICES * S::TAP;
        uint64_t left = operand(filter + slice * (BACK ? S::TAP : LEFT * ROW));
        uint64_t right = operand(start + (tap / 3 * S::PITCH + tap % 3) * ROW);
        begin_products();
#pragma unroll
        for (int k = 0; k < CHANNELS / DEPTH; ++k) {
            // A row of the weights is an output, with terms of this slice of inputs; for the
            // gradient it is the terms of one output.
            int in_row = k % (SLICE / DEPTH) * DEPTH * 2;
            int left_at = BACK ? k * DEPTH * ROW : k / (SLICE / DEPTH) * S::TAP + in_row;
            int right_at = k / (SLICE / DEPTH) * S::PIXELS + in_row;
            multiply<BACK>(sums, left + (left_at >> 4), right + (right_at >> 4), tap + k > 0);
        }
        end_products();
        await_products<1>();
        int done = tap - 1;
        if (done >= 0 && done + S::SLOTS < TAPS) {
            uint32_t free = slots_free + 8 * (done % S::SLOTS);
            if (in_group == 0) {
                arrive(free);
            }
            if (copies) {
                await_turn(free, done / S::SLOTS);
                copy_weights(done + S::SLOTS);
            }
            __syncwarp();
        }
    }
    await_products<0>();
    // All have multiplied: nobody needs the weights any more.
    __syncthreads();
    int at = (image * SIDE + top + strip * S::ROWS) * SIDE * CHANNELS + slice * SLICE;
    store_strip<S>(
        sums, memory + S::WEIGHTS, false, output, at, accumulate, moments, passing, normalizing);
    if (KIND == FORWARD && parts) {
        store_moments<S>(moments, memory + S::WEIGHTS, parts);
    }
    if (BACK && passing.images) {
        // All have stored their strips, where sums go now.
        __syncthreads();
        passing.store<S::GROUPS, S::SLICES>(
            memory + S::WEIGHTS, through.parts, CHANNELS, 0, blockIdx.x, gridDim.x);
    }
}

// The same of the first layer: 8 channels, three of them the image's, so all taps of two lie in one
// product. Pixels and weights lie in pieces of 16 bytes, without swizzling, eight of them to an
// operand's row; taps are terms of a sum, a distance of their own apart.
struct First {
    static constexpr int SIDE = 32;
    static constexpr int PITCH = SIDE + 1;
    static constexpr int OUTPUTS = 64;
    static constexpr int SLICES = 1;
    static constexpr int ROWS = STRIP / PITCH;
    static constexpr int STRIPS = SIDE / ROWS;
    static constexpr int GROUPS = 3;
    static constexpr int END = (SIDE + 2) * PITCH;
    // Beyond the image, the last strip's padding reads on.
    static constexpr int PIXELS = (STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 4;
    static constexpr int WEIGHTS = (PIXELS * 16 + 127) / 128 * 128;
    static constexpr int TAP = OUTPUTS * 16;
    static constexpr int STORE = (WEIGHTS + (TAPS + 1) * TAP + REPEAT - 1) / REPEAT * REPEAT;
    static constexpr int BARRIER = STORE + GROUPS * STRIP * ROW;
    static constexpr int BYTES = BARRIER + 8;
};

template <Kind KIND>
__device__ __forceinline__ void convolve_images(
    const CUtensorMap* images, const bf16* weights, bf16* output, const float* shift, float* parts,
    const Normal& normal)
{
    typedef First S;
    unsigned char* memory = shared_memory();
    uint32_t pixels = shared_address(memory);
    uint32_t filter = pixels + S::WEIGHTS;
    uint32_t there = pixels + S::BARRIER;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    if (thread == 0) {
        make_barrier(there, 1);
        publish_barriers();
    }
    // Pieces of zeros: behind the image, and for the tenth tap. The weights, (output, tap, input).
    uint4 zeros = make_uint4(0, 0, 0, 0);
    uint4* pieces = reinterpret_cast<uint4*>(memory);
    for (int i = S::END + thread; i < S::PIXELS; i += blockDim.x) {
        pieces[i] = zeros;
    }
    pieces = reinterpret_cast<uint4*>(memory + S::WEIGHTS);
    for (int i = thread; i < (TAPS + 1) * S::OUTPUTS; i += blockDim.x) {
        int tap = i / S::OUTPUTS;
        int from = i % S::OUTPUTS * TAPS + tap;
        pieces[i] = tap < TAPS ? reinterpret_cast<const uint4*>(weights)[from] : zeros;
    }
    publish_writes();
    __syncthreads();
    if (thread == 0) {
        announce(there, S::END * 16);
        copy_box(pixels, images, 0, -1, -1, blockIdx.x, there);
    }
    __syncwarp();
    Moments moments(parts != nullptr, shift, 0);
    Passing passing;
    Normalizing normalizing;
    if (KIND == FIXED) {
        normalizing = Normalizing(normal, S::OUTPUTS, 0);
    }
    await_turn(there, 0);
#pragma unroll 1
    for (int strip = group; strip < S::STRIPS; strip += S::GROUPS) {
        float sums[EIGHTHS][4];
        uint32_t start = pixels + strip * S::ROWS * S::PITCH * 16;
        begin_products();
#pragma unroll
        for (int tap = 0; tap < TAPS; tap += 2) {
            // The tenth tap has no weights: any pixels will do.
            int next = tap + 1 < TAPS ? tap + 1 : tap;
            int from = tap / 3 * S::PITCH + tap % 3;
            int step = next / 3 * S::PITCH + next % 3 - from;
            uint64_t left = plain_operand(filter + tap * S::TAP, S::TAP, 128);
            uint64_t right = plain_operand(start + from * 16, step * 16, 128);
            multiply<false>(sums, left, right, tap > 0);
        }
        end_products();
        await_products<0>();
        int at = (blockIdx.x * S::SIDE + strip * S::ROWS) * S::SIDE * S::OUTPUTS;
        bool again = strip >= S::GROUPS;
        store_strip<S>(
            sums, memory + S::STORE, again, output, at, 0, moments, passing, normalizing);
    }
    if (parts) {
        store_moments<S>(moments, memory, parts);
    }
}
