// Reads the rows of a crop from a file of floats, as a plain function: no torch.
//
// What the system has in memory is mapped for this one call and copied, which takes a fifth less
// than a read of each row. What it has yet to fetch is read: a disk that fails is then an error,
// where touching a mapping would be a signal.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "cpu/copy_run.h"

namespace fastmte {
namespace {

struct Rows {
  int descriptor;
  int64_t offset, stride;  // bytes before the first row, and from one to the next
  int64_t n, n_values;
  bool is_large;      // they are part of what is larger than a core's cache
  bool is_in_memory;  // the system has them, as far as it was asked
};

enum Outcome { kFinite, kEndsEarly, kNotFinite };

template <typename T>
Outcome read_each(const Rows& rows, float* out) {
  const int64_t n_bytes = rows.n_values * static_cast<int64_t>(sizeof(T));
  std::unique_ptr<T[]> room(new T[rows.n_values]);
  bool is_finite = true;
  for (int64_t row = 0; row < rows.n; ++row) {
    char* const to = reinterpret_cast<char*>(room.get());
    for (int64_t done = 0, got; done < n_bytes; done += got) {
      got =
          pread(rows.descriptor, to + done, n_bytes - done, rows.offset + row * rows.stride + done);
      if (got < 0 && errno == EINTR)
        got = 0;
      else if (got <= 0)
        return kEndsEarly;
    }
    is_finite &=
        copy<T>({room.get(), room.get(), rows.n_values, rows.is_large}, out + row * rows.n_values);
  }
  return is_finite ? kFinite : kNotFinite;
}

// The rows in memory, while this lives.
class Mapping {
 public:
  Mapping(const Rows& rows, int64_t row_bytes) {
    const int64_t before = rows.offset % sysconf(_SC_PAGESIZE);
    const int64_t n_bytes = before + (rows.n - 1) * rows.stride + row_bytes;
    struct stat file;
    if (fstat(rows.descriptor, &file) || file.st_size < rows.offset - before + n_bytes) return;
    void* const start =
        mmap(nullptr, n_bytes, PROT_READ, MAP_PRIVATE, rows.descriptor, rows.offset - before);
    if (start == MAP_FAILED) return;
    start_ = static_cast<char*>(start);
    first_ = start_ + before;
    n_bytes_ = n_bytes;
  }
  ~Mapping() {
    if (start_) munmap(start_, n_bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Null where the file is too short or cannot be mapped.
  const char* first() const { return first_; }

 private:
  char* start_ = nullptr;
  char* first_ = nullptr;
  size_t n_bytes_ = 0;
};

template <typename T>
Outcome copy_mapped(const Rows& rows, const char* first, float* out) {
  const auto source = [&](int64_t row) {
    return reinterpret_cast<const T*>(first + row * rows.stride);
  };
  bool is_finite = true;
  for (int64_t row = 0; row < rows.n; ++row) {
    const T* next = source(row + 1 < rows.n ? row + 1 : row);
    is_finite &=
        copy<T>({source(row), next, rows.n_values, rows.is_large}, out + row * rows.n_values);
  }
  return is_finite ? kFinite : kNotFinite;
}

template <typename T>
Outcome read_rows(const Rows& rows, float* out) {
  const bool is_aligned = rows.offset % static_cast<int64_t>(alignof(T)) == 0;
  if (rows.is_in_memory && is_aligned) {
    const Mapping mapping(rows, rows.n_values * static_cast<int64_t>(sizeof(T)));
    if (mapping.first()) return copy_mapped<T>(rows, mapping.first(), out);
  }
  return read_each<T>(rows, out);
}

}  // namespace
}  // namespace fastmte

// offset and stride in bytes, out (n, n_values). Returns 0 where all is well, 1 where the file has
// fewer rows or cannot be read, 2 where a value is NaN or infinite, 3 where memory is short. For
// ctypes.
extern "C" __attribute__((visibility("default"))) int fastmte_read_rows(
    int descriptor, int64_t offset, int64_t stride, int is_half, int is_large, int is_in_memory,
    int64_t n, int64_t n_values, float* out) {
  using namespace fastmte;
  const Rows rows{descriptor, offset, stride, n, n_values, is_large != 0, is_in_memory != 0};
  try {
    const Outcome outcome = is_half ? read_rows<Half>(rows, out) : read_rows<float>(rows, out);
    finish_copies();
    return outcome;
  } catch (const std::bad_alloc&) {
    return 3;
  }
}
