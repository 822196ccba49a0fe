// Influence between cells of the 2D selective scan; compiled once per instruction set.
//
// A lane is a channel. The decay from one cell to another is the exponential of A times the sum
// of dt on the way, so a line of cells needs one running sum per channel and no state.
#include "influence.h"

#include "lanes.h"

#ifndef SCAN2D_INFLUENCE
#error "name the kernel with -DSCAN2D_INFLUENCE=..."
#endif

namespace {

constexpr int kStateStep = 4;  // exponentials whose chains of operations overlap

int64_t blocks_of(const Scan2dInfluence& p) { return (p.channels + kLanes - 1) / kLanes; }

int64_t states_of(const Scan2dInfluence& p) {
    return (p.states + kStateStep - 1) / kStateStep * kStateStep;
}

int64_t scratch(const Scan2dInfluence& p) { return blocks_of(p) * kLanes + states_of(p); }

int64_t rates(const Scan2dInfluence& p) { return blocks_of(p) * states_of(p) * kLanes; }

void pack(const Scan2dInfluence& p, float* rate) {
    const int64_t states = states_of(p);
    for (int64_t block = 0; block < blocks_of(p); ++block)
        for (int64_t n = 0; n < states; ++n)
            for (int k = 0; k < kLanes; ++k) {
                const int64_t d = block * kLanes + k;
                const bool inside = d < p.channels && n < p.states;
                *rate++ = inside ? p.A[d * p.states + n] * kLog2E : 0.f;
            }
}

SCAN2D_INLINE vfloat load_some(const float* from, int64_t lanes) {
    return lanes >= kLanes ? load(from) : load_channels<false>(from, static_cast<int>(lanes));
}

void line(const Scan2dInfluence& p, const float* rate, int64_t index, float* elapsed) {
    const int64_t blocks = blocks_of(p), states = states_of(p);
    float* both = elapsed + blocks * kLanes;  // fixed * varying
    for (int64_t d = 0; d < blocks * kLanes; ++d)
        elapsed[d] = d < p.channels ? p.start[index * p.channels + d] : 0.f;
    for (int64_t n = 0; n < states; ++n) both[n] = 0.f;

    for (int64_t step = 0; step < p.steps; ++step) {
        const float* dt = p.dt + index * p.dt_line + step * p.dt_step;
        const float* x = p.x ? p.x + index * p.x_line + step * p.x_step : nullptr;
        const float* varying = p.varying + index * p.varying_line + step * p.varying_step;
        const int64_t out = index * p.out_line + step * p.out_step;
        for (int64_t n = 0; n < p.states; ++n) both[n] = p.fixed[n] * varying[n];
        vfloat total{};
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = block * kLanes, lanes = p.channels - first;
            const vfloat here = load_some(dt + first, lanes);
            vfloat time = load(elapsed + first);
            if (p.add_before && step > 0) time += here;
            const float* from = rate + block * states * kLanes;
            vfloat sum{};
            for (int64_t n = 0; n < states; n += kStateStep) {
                vfloat a[kStateStep];
#pragma GCC unroll 4
                for (int k = 0; k < kStateStep; ++k) a[k] = time * load(from + (n + k) * kLanes);
                exp2_all<kStateStep>(a);
#pragma GCC unroll 4
                for (int k = 0; k < kStateStep; ++k) sum += a[k] * splat(both[n + k]);
            }
            if (p.times_dt) sum *= here;
            if (x) sum *= load_some(x + first, lanes);
            store(elapsed + first, p.add_before ? time : time + here);
            if (p.each) {
                float* to = p.each + out * p.channels + first;
                lanes >= kLanes ? store(to, sum)
                                : store_channels<false>(to, sum, static_cast<int>(lanes));
            }
            if (p.weight) {
                if (p.magnitude) sum = sum < vfloat{} ? -sum : sum;
                total += load_some(p.weight + first, lanes) * sum;
            }
        }
        if (p.weight) {
            float added = 0.f;
            for (int k = 0; k < kLanes; ++k) added += total[k];
            p.total[out] = added;
        }
    }
}

}  // namespace

extern const Scan2dInfluenceKernel SCAN2D_INFLUENCE;
const Scan2dInfluenceKernel SCAN2D_INFLUENCE{scratch, rates, pack, line};
