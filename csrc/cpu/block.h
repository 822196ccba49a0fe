// The channels and states that one call of a kernel works on: pointers, and how cells are read.
#pragma once
#include "lanes.h"
#include "problem.h"

namespace {

template <int kCount>
SCAN2D_INLINE int count_of(const Scan2dPart& part) {
    return kCount ? kCount : part.count;
}

// Pointers of one part, and what all its cells share.
template <int kCount, bool kFull>
struct Block {
    const Scan2dPart& part;
    const Scan2dProblem& p;
    const int lanes, count;
    const float *x, *dt, *z, *B, *C;
    int64_t out;  // offset of the part in contiguous (batch, height, width, channels)
    vfloat rate[kCount ? kCount : kStates];  // A / log(2)
    vfloat D, bias;

    explicit Block(const Scan2dPart& given)
        : part(given), p(*given.problem), lanes(given.lanes), count(count_of<kCount>(given)) {
        const int64_t cells = p.height * p.width;
        x = p.x + given.batch * cells * p.x_cell + given.channel;
        dt = p.dt + given.batch * cells * p.dt_cell + given.channel;
        z = p.z ? p.z + given.batch * cells * p.z_cell + given.channel : nullptr;
        B = p.B + given.batch * cells * p.B_cell + given.group * p.states + given.state;
        C = p.C + given.batch * cells * p.C_cell + given.group * p.states + given.state;
        out = given.batch * cells * p.channels + given.channel;
        for (int n = 0; n < count; ++n) {
            rate[n] = vfloat{};
            for (int k = 0; k < lanes; ++k)
                rate[n][k] = p.A[(given.channel + k) * p.states + given.state + n] * kLog2E;
        }
        D = p.D ? load_channels<kFull>(p.D + given.channel, lanes) : vfloat{};
        bias = p.dt_bias ? load_channels<kFull>(p.dt_bias + given.channel, lanes) : vfloat{};
    }

    // All bits of the lanes that are channels.
    SCAN2D_INLINE vint alive() const {
        vint mask;
        for (int k = 0; k < kLanes; ++k) mask[k] = kFull || k < lanes ? -1 : 0;
        return mask;
    }
    SCAN2D_INLINE vfloat load_x(int64_t cell) const {
        return load_channels<kFull>(x + cell * p.x_cell, lanes);
    }
    SCAN2D_INLINE vfloat load_raw_dt(int64_t cell) const {
        return load_channels<kFull>(dt + cell * p.dt_cell, lanes) + bias;
    }
    SCAN2D_INLINE vfloat load_z(int64_t cell) const {
        return load_channels<kFull>(z + cell * p.z_cell, lanes);
    }
};

}  // namespace
