// What hopper.cu uses of the driver's header.
#pragma once

#include <cstdint>

// A box of bf16 feature maps or weights, as `cuTensorMapEncodeTiled` of driver.cpp leaves it: address,
// number of dimensions, whether rows are swizzled, four sizes, four sides of the box; innermost first.
struct CUtensorMap {
    uint64_t opaque[16];
};
