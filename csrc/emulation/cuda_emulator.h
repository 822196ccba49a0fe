// Runs CUDA kernels on the host, one fiber per CUDA thread.
//
// A fiber runs until it meets a barrier or a shuffle; the next one is picked at random from a
// seed, among all threads of several blocks at once, so that code which relies on lock step,
// on the order of warps or on the order of blocks computes something else or is reported:
//  - a barrier that some threads of a block never reach, lanes that meet at different
//    collectives, a warp that waits for ever, at a barrier or polling a counter: an error;
//  - shared memory is a heap allocation of exactly the size of the launch, filled with NaN:
//    AddressSanitizer sees what lies outside, results show what was never written;
//  - under ThreadSanitizer switching fibers orders nothing, only barriers do: two threads of
//    a warp, a block or of different blocks that touch the same word are reported;
//  - loads with acquire and stores with release are those of C++, so that ThreadSanitizer sees
//    what they order, and what a relaxed one would not. A thread that polls lets others run.
// x86-64 only (the stack switch is nine instructions). Not modelled: the contraction of
// a * b + c, the error of ex2.approx, asynchronous copies, clusters.
#pragma once
#define SCAN_EMULATED

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define EMU_UNTRACED __attribute__((no_sanitize("thread"), noinline))
#define EMU_RELEASE(p) __tsan_release(p)
#define EMU_ACQUIRE(p) __tsan_acquire(p)
#define EMU_ENTER(fiber) __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync)
#else
#define EMU_UNTRACED __attribute__((noinline))
#define EMU_RELEASE(p) (void)(p)
#define EMU_ACQUIRE(p) (void)(p)
#define EMU_ENTER(fiber) (void)(fiber)
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

// Saves the callee-saved registers, swaps the stacks, restores (System V x86-64).
extern "C" void emu_switch(void** save, void* load);
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n"
    ".size emu_switch,.-emu_switch\n");

struct Dim {
    unsigned x = 1, y = 1, z = 1;
    unsigned count() const { return x * y * z; }
};

// Two sync objects of a barrier alternate, so that a thread which already arrives at the next
// one is not mistaken for one that arrived at this one.
struct Barrier {
    unsigned waiting = 0;
    int kind = 0;  // what the first of those waiting called
    char sync[2];
};

struct Warp {
    Barrier barrier;
    unsigned lanes = 0;
    float slot[32];
};

struct Block;
struct Fiber {
    Block* block = nullptr;
    Dim thread;
    unsigned lane = 0, warp = 0, warp_turn = 0, block_turn = 0;
    enum { READY, AT_BLOCK, AT_WARP, DONE } state = READY;
    unsigned mask = 0;  // of the collective it waits at, and which one that is
    int kind = 0;
    std::unique_ptr<char[]> stack;
    void* stack_pointer = nullptr;
    void* traced = nullptr;  // ThreadSanitizer's name of this fiber
    void* fake_stack = nullptr;
};

struct Block {
    Dim index;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barrier;
    unsigned done = 0;
    float* shared = nullptr;
};

struct Machine {
    static constexpr size_t STACK = 64 << 10;
    Dim grid, block;
    std::function<void()> kernel;
    std::deque<Fiber*> ready;
    std::mt19937 random;
    bool in_order = true;
    void* host_stack_pointer = nullptr;
    void* host_traced = nullptr;
    void* host_fake_stack = nullptr;
    const void* host_stack = nullptr;
    size_t host_stack_size = 0;
    char start_sync = 0, end_sync = 0;
    std::vector<void*> allocations;  // shared memory, freed when the whole grid has run
    std::vector<std::unique_ptr<char[]>> used_stacks;
    std::string error;
    size_t idle = 0;  // turns in a row in which threads only polled
};

inline Machine* machine = nullptr;
inline Fiber* current = nullptr;

EMU_UNTRACED inline void leave(Fiber* me, bool for_good = false) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(for_good ? nullptr : &me->fake_stack, machine->host_stack, machine->host_stack_size);
#endif
    (void)for_good;
    EMU_ENTER(machine->host_traced);
    emu_switch(&me->stack_pointer, machine->host_stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(me->fake_stack, &machine->host_stack, &machine->host_stack_size);
#endif
}

EMU_UNTRACED inline void body() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &machine->host_stack, &machine->host_stack_size);
#endif
    EMU_ACQUIRE(&machine->start_sync);
    try {
        machine->kernel();
    } catch (const std::exception& e) {
        machine->error = e.what();
    }
    EMU_RELEASE(&machine->end_sync);
    current->state = Fiber::DONE;
    leave(current, true);
}

EMU_UNTRACED inline void resume(Fiber* fiber) {
    current = fiber;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&machine->host_fake_stack, fiber->stack.get(), Machine::STACK);
#endif
    EMU_ENTER(fiber->traced);
    emu_switch(&machine->host_stack_pointer, fiber->stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(machine->host_fake_stack, nullptr, nullptr);
#endif
}

EMU_UNTRACED inline void sync_block() {
    Fiber* me = current;
    char* sync = &me->block->barrier.sync[me->block_turn++ & 1];
    EMU_RELEASE(sync);
    me->state = Fiber::AT_BLOCK;
    leave(me);
    EMU_ACQUIRE(sync);
}

EMU_UNTRACED inline void sync_warp(unsigned mask, int kind) {
    Fiber* me = current;
    char* sync = &me->block->warps[me->warp].barrier.sync[me->warp_turn++ & 1];
    EMU_RELEASE(sync);
    me->mask = mask;
    me->kind = kind;
    me->state = Fiber::AT_WARP;
    leave(me);
    EMU_ACQUIRE(sync);
}

EMU_UNTRACED inline float shuffle_xor(unsigned mask, float value, int bits) {
    Fiber* me = current;
    float* slot = me->block->warps[me->warp].slot;
    slot[me->lane] = value;
    sync_warp(mask, 100 + bits);
    const float result = slot[me->lane ^ bits];
    sync_warp(mask, 200 + bits);  // nobody overwrites a slot before all have read
    return result;
}

EMU_UNTRACED inline float shuffle_from(unsigned mask, float value, int source) {
    Fiber* me = current;
    float* slot = me->block->warps[me->warp].slot;
    slot[me->lane] = value;
    sync_warp(mask, 300);
    const float result = slot[source & 31];
    sync_warp(mask, 400);
    return result;
}
EMU_UNTRACED inline int shuffle_from(unsigned mask, int value, int source) {
    float bits;
    std::memcpy(&bits, &value, 4);
    bits = shuffle_from(mask, bits, source);
    std::memcpy(&value, &bits, 4);
    return value;
}

// Whether this run has fault number k, of kernels that tests have broken on purpose.
EMU_UNTRACED inline bool faulty(int k) {
    static const char* const chosen = std::getenv("SCAN_FAULT");
    static const int fault = chosen ? std::atoi(chosen) : 0;
    return fault == k;
}

// Lets others run; what a thread does that polls. It stays ready.
EMU_UNTRACED inline void poll() {
    ++machine->idle;
    leave(current);
}
// Called by whatever may end the waiting of a thread that polls.
EMU_UNTRACED inline void progress() { machine->idle = 0; }

EMU_UNTRACED inline void fail(const Fiber* fiber, const std::string& what) {
    const Dim b = fiber->block->index, t = fiber->thread;
    throw std::runtime_error(what + " (block " + std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z)
                             + " thread " + std::to_string(t.x) + "," + std::to_string(t.y) + ")");
}

// Makes ready all fibers of a block, or of one warp of it, that wait in `state`.
EMU_UNTRACED inline void release(Block& block, int state, int warp) {
    for (auto& f : block.fibers) {
        if (f.state != state || (warp >= 0 && f.warp != static_cast<unsigned>(warp))) continue;
        f.state = Fiber::READY;
        machine->ready.push_back(&f);
    }
}

// Book-keeping after a fiber stopped; runs on the host's stack, so that no fiber touches it.
EMU_UNTRACED inline void stopped(Fiber* fiber) {
    Block& block = *fiber->block;
    if (fiber->state == Fiber::READY) {  // it polls
        machine->ready.push_back(fiber);
        // Drawn at random, so that each had its turn many times over.
        if (machine->idle > 50 * machine->ready.size() + 1000) fail(fiber, "deadlock: threads poll for what nobody writes");
        return;
    }
    progress();
    if (fiber->state == Fiber::AT_WARP) {
        Warp& warp = block.warps[fiber->warp];
        if (fiber->mask != 0xffffffffu || warp.lanes != 32) fail(fiber, "only collectives of whole warps are emulated");
        if (warp.barrier.waiting && warp.barrier.kind != fiber->kind) fail(fiber, "lanes of a warp met at different collectives");
        warp.barrier.kind = fiber->kind;
        if (++warp.barrier.waiting < 32) return;
        warp.barrier.waiting = 0;
        release(block, Fiber::AT_WARP, static_cast<int>(fiber->warp));
        return;
    }
    if (fiber->state == Fiber::AT_BLOCK) ++block.barrier.waiting;
    if (fiber->state == Fiber::DONE) ++block.done;
    if (block.barrier.waiting && block.barrier.waiting + block.done == block.fibers.size()) {
        if (block.done) fail(fiber, "a thread returned without reaching the __syncthreads that others wait at");
        block.barrier.waiting = 0;
        release(block, Fiber::AT_BLOCK, -1);
    }
}

EMU_UNTRACED inline void start(Block& block, const Dim& index, size_t shared_bytes) {
    block.index = index;
    block.done = 0;
    block.barrier = Barrier{};
    const unsigned threads = machine->block.count();
    block.fibers.resize(threads);
    block.warps.assign((threads + 31) / 32, Warp{});
    const size_t bytes = (shared_bytes + 15) / 16 * 16 + 16;
    block.shared = static_cast<float*>(std::aligned_alloc(16, bytes));
    machine->allocations.push_back(block.shared);
    for (size_t e = 0; e < shared_bytes / 4; ++e) block.shared[e] = std::numeric_limits<float>::quiet_NaN();
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(reinterpret_cast<char*>(block.shared) + shared_bytes, bytes - shared_bytes);
#endif
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& f = block.fibers[t];
        f.block = &block;
        f.thread = {t % machine->block.x, t / machine->block.x % machine->block.y, t / machine->block.x / machine->block.y};
        f.lane = t % 32;
        f.warp = t / 32;
        f.warp_turn = f.block_turn = 0;
        f.state = Fiber::READY;
        ++block.warps[f.warp].lanes;
#ifdef __SANITIZE_THREAD__
        // A stack that an earlier block's thread used would look like memory the two share.
        if (f.stack) machine->used_stacks.push_back(std::move(f.stack));
#endif
        if (!f.stack) f.stack.reset(new char[Machine::STACK]);
        auto top = (reinterpret_cast<uintptr_t>(f.stack.get()) + Machine::STACK) & ~uintptr_t(63);
        void** sp = reinterpret_cast<void**>(top);
        *--sp = nullptr;
        *--sp = reinterpret_cast<void*>(&body);
        for (int r = 0; r < 6; ++r) *--sp = nullptr;
        f.stack_pointer = sp;
#ifdef __SANITIZE_THREAD__
        if (f.traced) __tsan_destroy_fiber(f.traced);
        f.traced = __tsan_create_fiber(0);
#endif
        machine->ready.push_back(&f);
    }
    EMU_RELEASE(&machine->start_sync);
}

// Runs the whole grid, `resident` blocks at a time. Seed 0 runs threads in order.
EMU_UNTRACED inline void launch(Dim grid, Dim block_shape, size_t shared_bytes, unsigned resident, unsigned seed,
                                std::function<void()> kernel) {
    Machine m;
    machine = &m;
    m.grid = grid;
    m.block = block_shape;
    m.kernel = std::move(kernel);
    m.random.seed(seed);
    m.in_order = seed == 0;
#ifdef __SANITIZE_THREAD__
    m.host_traced = __tsan_get_current_fiber();
#endif
    std::vector<Dim> waiting;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) waiting.push_back({x, y, z});
    if (!m.in_order) std::shuffle(waiting.begin(), waiting.end(), m.random);
    std::vector<Block> blocks(std::min<size_t>(resident, waiting.size()));
    size_t next = 0;
    for (auto& b : blocks) start(b, waiting[next++], shared_bytes);
    while (!m.ready.empty()) {
        if (!m.in_order) std::swap(m.ready.front(), m.ready[m.random() % m.ready.size()]);
        Fiber* fiber = m.ready.front();
        m.ready.pop_front();
        resume(fiber);
        if (!m.error.empty()) throw std::runtime_error(m.error);
        stopped(fiber);
        Block& block = *fiber->block;
        if (block.done == block.fibers.size() && next < waiting.size()) start(block, waiting[next++], shared_bytes);
    }
    for (auto& b : blocks)
        if (b.done != b.fibers.size()) throw std::runtime_error("deadlock: threads wait at a barrier that the others do not reach");
    EMU_ACQUIRE(&m.end_sync);
    for (void* a : m.allocations) std::free(a);
}

}  // namespace emu

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define threadIdx (emu::current->thread)
#define blockIdx (emu::current->block->index)
#define blockDim (emu::machine->block)
#define gridDim (emu::machine->grid)
#define __syncthreads() emu::sync_block()
#define __syncwarp() emu::sync_warp(0xffffffffu, 1)
#define __shfl_xor_sync(mask, value, bits) emu::shuffle_xor(mask, value, bits)
#define __shfl_sync(mask, value, source) emu::shuffle_from(mask, value, source)
#define SCAN_DYNAMIC_SHARED(name) float* name = emu::current->block->shared

inline unsigned __float_as_uint(float v) {
    unsigned r;
    std::memcpy(&r, &v, 4);
    return r;
}
inline float __uint_as_float(unsigned v) {
    float r;
    std::memcpy(&r, &v, 4);
    return r;
}
inline int load_acquire_cta(const int* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline int load_acquire_gpu(const int* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void store_release_cta(int* p, int v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    emu::progress();
}
inline void store_release_gpu(int* p, int v) { store_release_cta(p, v); }
inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline void poll_again(int) { emu::poll(); }
inline void poll_later(int) { emu::poll(); }
inline float load_from_l2(const float* p) { return *p; }
inline void load_four_from_l2(const float* p, float& a, float& b, float& c, float& d) { a = p[0], b = p[1], c = p[2], d = p[3]; }
inline void store_streaming(float* p, float v) { *p = v; }
inline float reciprocal_fast(float v) { return 1.f / v; }
inline float exp2_fast(float v) { return std::exp2(v); }
inline float half_to_float(unsigned short v) {
    const int exponent = v >> 10 & 31, mantissa = v & 1023;
    const float sign = v & 0x8000 ? -1.f : 1.f;
    if (exponent == 31) return mantissa ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
    return sign * (exponent ? std::ldexp(1024.f + mantissa, exponent - 25) : std::ldexp(static_cast<float>(mantissa), -24));
}
inline unsigned short float_to_half(float v) {  // to nearest even
    const unsigned sign = std::signbit(v) ? 0x8000u : 0u;
    const float size = std::fabs(v);
    if (std::isnan(v)) return static_cast<unsigned short>(sign | 0x7e00u);
    if (size >= 65520.f) return static_cast<unsigned short>(sign | 0x7c00u);
    if (size < std::ldexp(1.f, -14)) return static_cast<unsigned short>(sign | static_cast<unsigned>(std::nearbyint(std::ldexp(size, 24))));
    const int exponent = std::ilogb(size);  // a mantissa that rounds up to 2048 carries into the exponent
    const auto mantissa = static_cast<unsigned>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return static_cast<unsigned short>(sign | ((static_cast<unsigned>(exponent + 15) << 10) + mantissa - 1024u));
}
