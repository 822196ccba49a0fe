// Runs one launch of one kernel as written in a job file, and writes the buffers back into it.
//
// usage: run_kernel JOB
// The job is a header, the kernel's argument, the places in it that are pointers, and the
// buffers; every buffer becomes its own allocation of exactly its size. tests/scan/emulation.py
// writes it. Exit status 0; 3 with a sentence on stderr when the emulation finds a fault.
#include "cuda_emulator.h"

#ifdef FORWARD_LANES  // a constant of the forward pass alone
#include "forward.cu"
#else
#include "backward.cu"
#endif

struct Header {
    char kernel[32];
    uint32_t grid[3], block[3];
    uint32_t shared_bytes, resident, seed, argument_bytes, pointers, buffers;
};
struct Pointer {
    uint64_t place, buffer, offset;  // in the argument; which buffer; bytes into it
};

static void need(bool ok, const char* what) {
    if (ok) return;
    std::fprintf(stderr, "run_kernel: %s\n", what);
    std::exit(2);
}

int main(int argc, char** argv) {
    need(argc == 2, "usage: run_kernel JOB");
    std::FILE* file = std::fopen(argv[1], "r+b");
    need(file, "cannot open the job");
    Header h;
    need(std::fread(&h, sizeof h, 1, file) == 1, "short job");
    Scan argument;
    need(h.argument_bytes == sizeof argument, "the argument has another size than struct Scan");
    need(std::fread(&argument, sizeof argument, 1, file) == 1, "short job");
    std::vector<Pointer> pointers(h.pointers);
    for (auto& p : pointers) need(std::fread(&p, sizeof p, 1, file) == 1, "short job");
    std::vector<uint64_t> sizes(h.buffers);
    for (auto& s : sizes) need(std::fread(&s, sizeof s, 1, file) == 1, "short job");
    const long data = std::ftell(file);
    std::vector<void*> buffers;
    for (auto s : sizes) {
        buffers.push_back(std::malloc(s));
        need(std::fread(buffers.back(), 1, s, file) == s, "short job");
    }
    for (const auto& p : pointers) {
        char* target = static_cast<char*>(buffers.at(p.buffer)) + p.offset;
        std::memcpy(reinterpret_cast<char*>(&argument) + p.place, &target, sizeof target);
    }

    const std::string name = h.kernel;
#ifdef FORWARD_LANES
    void (*kernel)(Scan) = name == "scan_forward" ? scan_forward : nullptr;
#else
    void (*kernel)(Scan) = name == "scan_gradient_edges" ? scan_gradient_edges
                           : name == "scan_right_edges"  ? scan_right_edges
                           : name == "scan_join_edges"   ? scan_join_edges
                           : name == "scan_backward"     ? scan_backward
                           : name == "scan_add_parts"    ? scan_add_parts
                                                         : nullptr;
#endif
    need(kernel, "no such kernel");
    try {
        emu::launch({h.grid[0], h.grid[1], h.grid[2]}, {h.block[0], h.block[1], h.block[2]}, h.shared_bytes, h.resident,
                    h.seed, [&] { kernel(argument); });
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s: %s\n", h.kernel, e.what());
        return 3;
    }
    std::fseek(file, data, SEEK_SET);
    for (size_t e = 0; e < sizes.size(); ++e) need(std::fwrite(buffers[e], 1, sizes[e], file) == sizes[e], "cannot write back");
    need(std::fclose(file) == 0, "cannot write back");
    for (void* b : buffers) std::free(b);
    return 0;
}
