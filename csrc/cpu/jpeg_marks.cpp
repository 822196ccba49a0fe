// Walks the marks of a JPEG: the only pass over a tile's bytes besides its decoding.
#include <cstdint>
#include <cstring>

#ifdef _WIN32
#define JPEG_EXPORT extern "C" __declspec(dllexport)
#else
#define JPEG_EXPORT extern "C" __attribute__((visibility("default")))
#endif

JPEG_EXPORT int jpeg_marks_version() { return 1; }

// What napari_2dmamba/slide/jpeg_marks.py defines as end_of_jpeg_in_python; -1 for None.
JPEG_EXPORT int64_t jpeg_end(const uint8_t* data, int64_t size) {
  if (data == nullptr || size < 0) return -1;
  int64_t at = -1;
  for (int64_t i = 0; i + 1 < size && at < 0; ++i)
    if (data[i] == 0xff && data[i + 1] == 0xda) at = i;
  while (at >= 0) {
    int64_t length = 0;
    for (int64_t i = at + 2; i < at + 4 && i < size; ++i) length = length << 8 | data[i];
    at += 2 + length;
    uint8_t mark = 0;
    while (mark == 0 || mark == 0xff || (mark >= 0xd0 && mark <= 0xd7)) {  // 0: a coded 0xff
      if (at >= size) return -1;
      const void* found = std::memchr(data + at, 0xff, static_cast<size_t>(size - at));
      if (found == nullptr) return -1;
      at = static_cast<const uint8_t*>(found) - data + 1;
      if (at >= size) return -1;
      mark = data[at];
    }
    --at;
    if (mark == 0xd9) return at;
    // Between scans: tables, comments, the next scan
    const bool between = mark == 0xc4 || mark == 0xcc || (mark >= 0xda && mark <= 0xdd) ||
                         mark == 0xfe || (mark >= 0xe0 && mark <= 0xef);
    if (!between) return -1;
  }
  return -1;
}
