// The C ABI of the CPU scan: choice of the instruction set, threads, scratch memory.
#include "influence.h"
#include "problem.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#define SCAN2D_X86 1
#include <cpuid.h>
#endif

#if defined(_WIN32)
#define SCAN2D_API extern "C" __declspec(dllexport)
#else
#define SCAN2D_API extern "C" __attribute__((visibility("default")))
#endif

extern const Scan2dKernels scan2d_baseline;
extern const Scan2dInfluenceKernel influence_baseline;
#ifdef SCAN2D_X86
extern const Scan2dKernels scan2d_avx2, scan2d_avx512;
extern const Scan2dInfluenceKernel influence_avx2, influence_avx512;
#endif

namespace {

#ifdef SCAN2D_X86
// The highest level both the processor and the operating system support.
int best_level() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const bool fma = c >> 12 & 1, saves_registers = c >> 27 & 1;
    if (!fma || !saves_registers || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const bool avx2 = (low & 6) == 6 && (b >> 5 & 1);
    const bool avx512 = (low & 0xe6) == 0xe6 && (b >> 16 & 1) /* F */ && (b >> 17 & 1) /* DQ */ &&
                        (b >> 30 & 1) /* BW */ && (b >> 31 & 1) /* VL */;
    return !avx2 ? 0 : avx512 ? 2 : 1;
}
#else
int best_level() { return 0; }
#endif

const Scan2dKernels& kernels_of(int level) {
#ifdef SCAN2D_X86
    const int best = best_level();
    switch (level < 0 || level > best ? best : level) {
        case 1: return scan2d_avx2;
        case 2: return scan2d_avx512;
    }
#endif
    (void)level;
    return scan2d_baseline;
}

const Scan2dInfluenceKernel& influence_of(int level) {
#ifdef SCAN2D_X86
    const int best = best_level();
    switch (level < 0 || level > best ? best : level) {
        case 1: return influence_avx2;
        case 2: return influence_avx512;
    }
#endif
    (void)level;
    return influence_baseline;
}

template <typename T>
struct Freed {
    void operator()(T* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T, Freed<T>>;

// Asks for large pages, as numpy does for arrays from 4 MiB on: in pages of 4 KiB, the first touch
// of fresh memory takes longer than all that is then done in it.
void prefer_large_pages(void* memory, size_t bytes) {
#if defined(__linux__)
    if (bytes < size_t{1} << 22) return;
    const uintptr_t page = uintptr_t{1} << 21, from = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t first = (from + page - 1) / page * page, last = (from + bytes) / page * page;
    if (last > first + page)  // advice only: where it is refused, all goes on in small pages
        (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

template <typename T>
Buffer<T> allocate(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) / 64 + 2) * 64;
    Buffer<T> buffer(static_cast<T*>(std::malloc(bytes)));
    if (buffer) prefer_large_pages(buffer.get(), bytes);
    return buffer;
}

float* align(float* p) {
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

// Runs work(task) for every task, on up to `threads` threads; false if memory ran out.
// Threads live as long as the call: a pool would have to survive fork and unloading.
template <typename Work>
bool run(int64_t tasks, int threads, int64_t scratch_floats, const Work& work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> enough{true};
    const auto loop = [&] {
        const Buffer<float> scratch = allocate<float>(scratch_floats);
        if (!scratch) {
            enough = false;
            return;
        }
        for (int64_t task; enough && (task = next.fetch_add(1)) < tasks;)
            work(task, align(scratch.get()));
    };
    std::vector<std::thread> others;
    try {
        for (int64_t k = 1; k < threads && k < tasks; ++k) others.emplace_back(loop);
    } catch (const std::system_error&) {
        // Fewer threads than asked for: the work is the same.
    } catch (const std::bad_alloc&) {
    }
    loop();
    for (std::thread& thread : others) thread.join();
    return enough;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls act(part) for each chunk of states of a block of channels.
template <typename Act>
void each_chunk(Scan2dPart part, const Act& act) {
    const int64_t states = part.problem->states;
    for (int64_t n = 0; n < states; n += kStates) {
        part.state = static_cast<int>(n);
        part.count = static_cast<int>(states - n < kStates ? states - n : kStates);
        part.first = n == 0;
        part.last = n + part.count == states;
        act(part);
    }
}

// Puts `count` numbers into `to`, or adds them to what is there.
void add_up(float* __restrict to, const float* __restrict from, int64_t count, bool add) {
    if (!add)
        std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
    else
        for (int64_t k = 0; k < count; ++k) to[k] += from[k];
}

int largest_chunk(const Scan2dProblem& p) {
    return static_cast<int>(p.states < kStates ? p.states : kStates);
}

}  // namespace

SCAN2D_API int scan2d_version() { return 2; }

SCAN2D_API int scan2d_best_level() { return best_level(); }

SCAN2D_API const char* scan2d_level_name(int level) { return kernels_of(level).name; }

// y: contiguous (batch, height, width, channels). Returns 0, or 1 when memory ran out.
SCAN2D_API int scan2d_forward(const Scan2dProblem* problem, float* y, int threads, int level) {
    const Scan2dProblem& p = *problem;
    const Scan2dKernels& kernels = kernels_of(level);
    const int64_t in_group = p.channels / p.groups, blocks = ceil_div(in_group, kernels.lanes);
    const int64_t scratch = kernels.forward_scratch(p, largest_chunk(p));
    prefer_large_pages(y, sizeof(float) * p.batch * p.height * p.width * p.channels);
    const bool done = run(p.batch * p.groups * blocks, threads, scratch, [&](int64_t task, float* s) {
        const int64_t block = task % blocks, group = task / blocks % p.groups;
        const int64_t left = in_group - block * kernels.lanes;
        Scan2dPart part{};
        part.problem = problem;
        part.batch = task / blocks / p.groups;
        part.group = group;
        part.channel = group * in_group + block * kernels.lanes;
        part.lanes = static_cast<int>(left < kernels.lanes ? left : kernels.lanes);
        each_chunk(part, [&](const Scan2dPart& chunk) { kernels.forward(chunk, y, s); });
    });
    return done ? 0 : 1;
}

// grad_y: contiguous. Returns 0, or 1 when memory ran out.
//
// B and C are shared by the channels of a group. Its blocks of channels are dealt to a few slots,
// whose number depends on the problem alone; a slot is one task and sums its blocks in order, and
// slots are summed in order: the result does not depend on the number of threads.
SCAN2D_API int scan2d_backward(const Scan2dProblem* problem, const float* grad_y,
                               const Scan2dGradients* grads, int threads, int level) {
    const Scan2dProblem& p = *problem;
    const Scan2dKernels& kernels = kernels_of(level);
    const int64_t cells = p.height * p.width, in_group = p.channels / p.groups;
    const int64_t blocks = ceil_div(in_group, kernels.lanes);
    int64_t slots = in_group / p.states;  // their sums then take no more than 2 x the input
    slots = slots < 2 ? 2 : slots > 8 ? 8 : slots;
    slots = slots > blocks ? blocks : slots;
    const int64_t per_slot = ceil_div(blocks, slots);
    slots = ceil_div(blocks, per_slot);
    const int64_t tasks = p.batch * p.groups * slots, share = cells * p.states;
    const int64_t per_block = (p.states + 2) * kMaxLanes;  // doubles: A, D, dt_bias

    for (float* grad : {grads->x, grads->dt, grads->z})
        if (grad) prefer_large_pages(grad, sizeof(float) * p.batch * cells * p.channels);
    const Buffer<float> sums = allocate<float>(2 * tasks * share);
    const Buffer<double> small = allocate<double>(p.batch * p.groups * blocks * per_block);
    if (!sums || !small) return 1;
    std::memset(small.get(), 0, sizeof(double) * p.batch * p.groups * blocks * per_block);

    const int64_t scratch = kernels.backward_scratch(p, largest_chunk(p));
    bool done = run(tasks, threads, scratch, [&](int64_t task, float* s) {
        const int64_t slot = task % slots, group = task / slots % p.groups;
        const int64_t batch = task / slots / p.groups;
        Scan2dShares shares{};
        shares.B = sums.get() + 2 * task * share;
        shares.C = shares.B + share;
        for (int64_t block = slot * per_slot; block < blocks && block < (slot + 1) * per_slot;
             ++block) {
            const int64_t left = in_group - block * kernels.lanes;
            Scan2dPart part{};
            part.problem = problem;
            part.batch = batch;
            part.group = group;
            part.channel = group * in_group + block * kernels.lanes;
            part.lanes = static_cast<int>(left < kernels.lanes ? left : kernels.lanes);
            shares.A = small.get() + ((batch * p.groups + group) * blocks + block) * per_block;
            shares.D = shares.A + p.states * kMaxLanes;
            shares.dt_bias = shares.D + kMaxLanes;
            shares.add = block > slot * per_slot;
            each_chunk(part, [&](const Scan2dPart& chunk) {
                kernels.backward(chunk, grad_y, *grads, shares, s);
            });
        }
    });
    if (!done) return 1;

    // Sums over slots, cell by cell; then over batches.
    done = run(p.batch * p.groups * p.height, threads, 0, [&](int64_t task, float*) {
        const int64_t row = task % p.height, group = task / p.height % p.groups;
        const int64_t batch = task / p.height / p.groups;
        const float* const from = sums.get() + (batch * p.groups + group) * slots * 2 * share;
        for (int64_t cell = row * p.width; cell < (row + 1) * p.width; ++cell) {
            const int64_t to = ((batch * cells + cell) * p.groups + group) * p.states;
            for (int64_t slot = 0; slot < slots; ++slot) {
                const float* const B = from + 2 * slot * share + cell * p.states;
                add_up(grads->B + to, B, p.states, slot > 0);
                add_up(grads->C + to, B + share, p.states, slot > 0);
            }
        }
    });
    for (int64_t channel = 0; channel < p.channels; ++channel) {
        const int64_t group = channel / in_group, block = channel % in_group / kernels.lanes;
        const int64_t lane = channel % in_group % kernels.lanes;
        const auto total = [&](int64_t entry) {
            double sum = 0;
            for (int64_t batch = 0; batch < p.batch; ++batch)
                sum += small.get()[((batch * p.groups + group) * blocks + block) * per_block +
                                   entry * kMaxLanes + lane];
            return static_cast<float>(sum);
        };
        for (int64_t n = 0; n < p.states; ++n) grads->A[channel * p.states + n] = total(n);
        if (grads->D) grads->D[channel] = total(p.states);
        if (grads->dt_bias) grads->dt_bias[channel] = total(p.states + 1);
    }
    return done ? 0 : 1;
}

// Returns 0, or 1 when memory ran out.
SCAN2D_API int scan2d_influence(const Scan2dInfluence* problem, int threads, int level) {
    const Scan2dInfluenceKernel& kernel = influence_of(level);
    const Buffer<float> packed = allocate<float>(kernel.rates(*problem));
    if (!packed) return 1;
    float* const rate = align(packed.get());
    kernel.pack(*problem, rate);
    const int64_t scratch = kernel.scratch(*problem);
    const bool done = run(problem->lines, threads, scratch, [&](int64_t line, float* s) {
        kernel.line(*problem, rate, line, s);
    });
    return done ? 0 : 1;
}

// For the benchmark: the time of `count` exponentials alone, shared by the threads.
SCAN2D_API float scan2d_exponentials(int64_t count, int threads, int level) {
    const Scan2dKernels& kernels = kernels_of(level);
    std::atomic<float> kept{0.f};
    run(threads, threads, 0, [&](int64_t task, float*) {
        kept = kernels.exponentials(count / threads / kernels.lanes, -0.01f * float(task + 1));
    });
    return kept;
}
