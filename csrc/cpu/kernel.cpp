// The kernels of one instruction set, as a table; compiled once per instruction set.
//
//     across[i, j] = a[i, j] * across[i, j-1] + dt * B * x
//     h[i, j]      = a[i, j] * h[i-1, j] + across[i, j]            a = exp(dt * A)
//     y[i, j]      = (sum over states of C * h + D * x) * silu(z)
//
// A lane is a channel. Nothing is kept for each cell and state but what the cache holds: going
// forward one row of h, going back one tile.
#include "backward.h"
#include "forward.h"

#ifndef SCAN2D_KERNELS
#error "name the table of kernels with -DSCAN2D_KERNELS=..."
#endif

namespace {

int64_t forward_scratch(const Scan2dProblem& p, int count) { return p.width * count * kLanes; }

int64_t backward_scratch(const Scan2dProblem& p, int count) {
    return BackwardScratch(p, count).total();
}

template <int kCount>
void forward_any(const Scan2dPart& part, float* y, float* scratch) {
    part.lanes == kLanes ? forward<kCount, true>(part, y, scratch)
                         : forward<kCount, false>(part, y, scratch);
}

template <int kCount>
void backward_any(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
                  const Scan2dShares& shares, float* scratch) {
    part.lanes == kLanes ? backward<kCount, true>(part, grad_y, grads, shares, scratch)
                         : backward<kCount, false>(part, grad_y, grads, shares, scratch);
}

void forward_part(const Scan2dPart& part, float* y, float* scratch) {
    switch (part.count) {
        case 1: return forward_any<1>(part, y, scratch);
        case kStates: return forward_any<kStates>(part, y, scratch);
        default: return forward_any<0>(part, y, scratch);
    }
}

void backward_part(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
                   const Scan2dShares& shares, float* scratch) {
    switch (part.count) {
        case 1: return backward_any<1>(part, grad_y, grads, shares, scratch);
        case kStates: return backward_any<kStates>(part, grad_y, grads, shares, scratch);
        default: return backward_any<0>(part, grad_y, grads, shares, scratch);
    }
}

// The benchmark's floor: nothing but as many exponentials, from registers.
float exponentials(int64_t vectors, float from) {
    vfloat sum{}, start[kFour], t[kFour];
    for (int k = 0; k < kFour; ++k) start[k] = splat(from - 0.1f * k);
    for (int64_t i = 0; i < vectors; i += kFour) {
        for (int k = 0; k < kFour; ++k) t[k] = start[k] -= splat(1e-6f);
        exp2_all<kFour>(t);
        for (int k = 0; k < kFour; ++k) sum += t[k];
    }
    return sum[0];
}

}  // namespace


extern const Scan2dKernels SCAN2D_KERNELS;
const Scan2dKernels SCAN2D_KERNELS{
    SCAN2D_NAME,   kLanes,       forward_scratch, backward_scratch,
    forward_part,  backward_part, exponentials,
};
