// The words of every argument check. fastmte/_checks.py says the same in Python: an error reads
// alike on every tier.
//
// Check before a parallel region begins: an exception thrown inside one loses its text.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fastmte {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws what Python sees as a RuntimeError with this text alone; torch's own check would put the
// line of this file before it.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// A macro, so that the parts are only evaluated for a message that is thrown.
#define FASTMTE_CHECK(is_met, ...)               \
  do {                                           \
    if (!(is_met)) ::fastmte::fail(__VA_ARGS__); \
  } while (false)

inline std::string device_name(const Tensor& x) {
  if (x.is_cpu()) return "cpu";
  return (x.is_cuda() ? "cuda:" : "device:") + std::to_string(x.get_device_index());
}

inline std::string number_text(double value) {
  if (std::isnan(value)) return "nan";  // a stream would print the sign of some
  std::ostringstream text;
  text << value;
  return text.str();
}

// `x` must have `n_dims` dimensions, one of `dtypes`, and the device of `like`.
inline void check_tensor(const char* op, const char* name, const Tensor& x, int64_t n_dims,
                         std::initializer_list<ScalarType> dtypes, const Tensor& like) {
  FASTMTE_CHECK(x.dim() == n_dims, op, ": ", name, " must be ", n_dims, "-D, got ", x.dim(), "-D");
  bool is_one = false;
  std::string want;
  for (const ScalarType dtype : dtypes) {
    is_one = is_one || x.scalar_type() == dtype;
    want += (want.empty() ? "" : " or ") + std::string(torch::headeronly::toString(dtype));
  }
  FASTMTE_CHECK(is_one, op, ": ", name, " must be ", want, ", got ",
                torch::headeronly::toString(x.scalar_type()));
  FASTMTE_CHECK(device_name(x) == device_name(like), op, ": ", name, " must be on ",
                device_name(like), ", got ", device_name(x));
}

inline void check_equal(const char* op, const char* name, int64_t size, const char* other_name,
                        int64_t other) {
  FASTMTE_CHECK(size == other, op, ": ", name, " and ", other_name, " must be equal, got ", size,
                " and ", other);
}

inline void check_at_least(const char* op, const char* name, int64_t value, int64_t least) {
  FASTMTE_CHECK(value >= least, op, ": ", name, " must be at least ", least, ", got ", value);
}

// All of `values` (n) must be in [0, end).
inline void check_range(const char* op, const char* name, const int64_t* values, int64_t n,
                        int64_t end) {
  for (int64_t i = 0; i < n; ++i)
    FASTMTE_CHECK(values[i] >= 0 && values[i] < end, op, ": ", name, " must be in [0, ", end,
                  "), got ", values[i], " at [", i, "]");
}

[[noreturn]] inline void fail_not_finite(const char* op, const char* name, double value,
                                         const std::string& position) {
  fail(op, ": ", name, " must be finite, got ", number_text(value), " at ", position);
}

// Fails for the value at `position` of a row-major matrix of `n_columns`.
[[noreturn]] inline void fail_not_finite(const char* op, const char* name, double value,
                                         int64_t position, int64_t n_columns) {
  fail_not_finite(op, name, value,
                  "[" + std::to_string(position / n_columns) + ", " +
                      std::to_string(position % n_columns) + "]");
}

}  // namespace fastmte
