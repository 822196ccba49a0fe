// How much of the input at one cell reaches another through the 2D selective scan, for one fixed
// cell and all others. Shared by the C ABI (scan2d.cpp), the kernel (influence.cpp) and, field by
// field, by napari_2dmamba/scan/cpu.py.
#pragma once
#include <cstdint>

extern "C" {

// Of each step of each line, with `elapsed` the sum of dt along the path between the two cells:
//
//     v[d] = factor[d] * sum over n of exp(A[d, n] * elapsed[d]) * fixed[n] * varying[n]
//
// where factor is dt (and x, if given) of the step's cell if `times_dt`. A line starts at elapsed
// time `start`; dt of a step's cell is added before the step (never before the first) if
// `add_before`, and after it otherwise. Strides are in elements and may be negative; channels and
// states are contiguous.
struct Scan2dInfluence {
    int64_t lines, steps, channels, states;
    int64_t dt_line, dt_step, x_line, x_step, varying_line, varying_step, out_line, out_step;
    int64_t times_dt, add_before, magnitude;  // 0 or 1
    const float* dt;
    const float* start;    // (lines, channels), contiguous
    const float* A;        // (channels, states), contiguous
    const float* fixed;    // (states)
    const float* varying;
    const float* x;        // or null
    const float* weight;   // (channels), or null if `each` is given
    float* total;          // sum over channels of weight * v, or of weight * |v| if `magnitude`
    float* each;           // v itself: strides of `out` times channels; or null
};
}

// One instruction set's kernel. `rate` is A / log(2) as (blocks of lanes, states rounded up to
// kStateStep, lanes), filled with zeros.
struct Scan2dInfluenceKernel {
    int64_t (*scratch)(const Scan2dInfluence&);  // floats
    int64_t (*rates)(const Scan2dInfluence&);    // floats
    void (*pack)(const Scan2dInfluence&, float* rate);
    void (*line)(const Scan2dInfluence&, const float* rate, int64_t line, float* scratch);
};
