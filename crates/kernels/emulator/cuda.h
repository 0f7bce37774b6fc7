// What hopper.cu uses of the driver's header.
#pragma once

#include <cstdint>

// A box of bf16 feature maps or weights, as `cuTensorMapEncodeTiled` of driver.cpp leaves it:
// address, whether rows are swizzled, four sizes, strides in bytes but for the first, four sides of
// the box; innermost first. Then what it takes of the second dimension and of the fourth: every
// first, every second.
struct CUtensorMap {
    uint64_t opaque[16];
};
