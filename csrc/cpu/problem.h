// What one call of the 2D selective scan works on. Shared by the C ABI (scan2d.cpp), the
// kernels (kernel.cpp) and, field by field, by napari_2dmamba/scan/cpu.py.
#pragma once
#include <cstdint>

extern "C" {

// Inputs are float32 and channels last. `*_cell` is the distance, in elements, from one cell to
// the next in raster order, so that slices of a wider tensor need no copy. Batches follow one
// another: the distance of two batches is height * width * cell.
struct Scan2dProblem {
    int64_t batch, height, width, channels, groups, states;
    int64_t x_cell, dt_cell, B_cell, C_cell, z_cell;
    const float* x;        // (batch, height, width, channels)
    const float* dt;       // (batch, height, width, channels)
    const float* A;        // (channels, states), contiguous
    const float* B;        // (batch, height, width, groups, states)
    const float* C;        // (batch, height, width, groups, states)
    const float* D;        // (channels), or null
    const float* z;        // (batch, height, width, channels), or null
    const float* dt_bias;  // (channels), or null
    int64_t dt_softplus;   // 0 or 1
};

// Contiguous outputs of the backward pass, each of the shape of what it is the gradient of.
struct Scan2dGradients {
    float *x, *dt, *A, *B, *C;
    float *D, *z, *dt_bias;  // null where the problem has none
};
}

// The part of a problem that one kernel call does: one batch, neighbouring channels of one group
// (at most as many as the instruction set has lanes), and `count` of the states.
struct Scan2dPart {
    const Scan2dProblem* problem;
    int64_t batch, group, channel;
    int lanes;        // channels in this part
    int state, count; // first state, number of states (1 to kStates)
    bool first, last; // whether it is the first, the last chunk of states
};

// Where the backward pass puts what several parts share.
struct Scan2dShares {
    float* B;             // (height * width, states): sum over the channels of a slot
    float* C;             // (height * width, states)
    double* A;            // (states, lanes) of this block of channels, then
    double *D, *dt_bias;  // (lanes) each
    bool add;             // to B and C, which otherwise hold nothing yet
};

constexpr int kStates = 16;    // states in a chunk
constexpr int kBand = 12;      // rows of a tile of the backward pass
constexpr int kPanel = 12;     // its columns
constexpr int kMaxLanes = 16;

// One instruction set's kernels.
struct Scan2dKernels {
    const char* name;
    int lanes;
    int64_t (*forward_scratch)(const Scan2dProblem&, int count);  // floats
    int64_t (*backward_scratch)(const Scan2dProblem&, int count);
    void (*forward)(const Scan2dPart&, float* y, float* scratch);
    void (*backward)(const Scan2dPart&, const float* grad_y, const Scan2dGradients&,
                     const Scan2dShares&, float* scratch);
    float (*exponentials)(int64_t vectors, float from);
};
