// The rows of the input that some rows of a convolution's output are made of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "conv_pool_act.h"
#include "cpu/vector.h"

namespace fastmte {

// Positions whose sums an engine makes at a time.
constexpr int64_t kConvPositions = 32;

// One call's arrays, contiguous.
struct Conv {
  const BFloat16* x;
  const BFloat16* weight;
  const float* bias;
  const BFloat16* onto;  // null for none
  BFloat16* out;
  ConvSizes sizes;
  Activation activation;
};

class ConvInput {
 public:
  explicit ConvInput(const Conv& conv)
      : conv_(conv),
        row_size_(conv.sizes.padded_columns() * conv.sizes.inputs),
        n_slots_(
            std::max((conv.sizes.pool_rows - 1) * conv.sizes.row_stride + conv.sizes.kernel_rows,
                     kMostBytes / 2 / row_size_)),
        values_(new BFloat16[(n_slots_ + 1) * row_size_ + 32]),
        held_(conv.sizes.rows) {
    const auto address = reinterpret_cast<uintptr_t>(values_.get());
    first_ = reinterpret_cast<BFloat16*>((address + 63) / 64 * 64);
    std::memset(static_cast<void*>(first_), 0, row_size_ * sizeof(BFloat16));
  }

  // Copies what output rows from `begin` on need, as many as the buffer takes and at most those
  // before `end`; returns the end of them.
  int64_t take(int64_t begin, int64_t end) {
    const ConvSizes& sizes = conv_.sizes;
    rows_.clear();
    n_taken_ = 0;
    song_ = -1;
    int64_t at = begin;
    for (; at < end; ++at) {
      const int64_t song = at / sizes.out_rows(), row = at % sizes.out_rows();
      if (song != song_) std::fill(held_.begin(), held_.end(), nullptr);
      song_ = song;
      if (at > begin && n_taken_ + n_missing(row) > n_slots_) break;
      for (int64_t r = 0; r < sizes.pool_rows; ++r)
        for (int64_t dy = 0; dy < sizes.kernel_rows; ++dy)
          rows_.push_back(padded(first_row(row) + r * sizes.row_stride + dy));
    }
    return at;
  }

  // The input rows, from their padding on, of the i-th output row taken: kernel_rows of them for
  // each of pool_rows.
  const BFloat16* const* rows(int64_t i) const {
    return rows_.data() + i * conv_.sizes.pool_rows * conv_.sizes.kernel_rows;
  }

 private:
  static constexpr int64_t kMostBytes = 384 << 10;

  int64_t first_row(int64_t row) const {
    return row * conv_.sizes.pool_rows * conv_.sizes.row_stride - conv_.sizes.row_pad;
  }

  bool is_inside(int64_t y) const { return y >= 0 && y < conv_.sizes.rows; }

  int64_t n_missing(int64_t row) const {
    const ConvSizes& sizes = conv_.sizes;
    const int64_t n = (sizes.pool_rows - 1) * sizes.row_stride + sizes.kernel_rows;
    int64_t missing = 0;
    for (int64_t y = first_row(row); y < first_row(row) + n; ++y)
      missing += is_inside(y) && !held_[y];
    return missing;
  }

  const BFloat16* padded(int64_t y) {
    if (!is_inside(y)) return first_;
    if (held_[y]) return held_[y];
    const ConvSizes& sizes = conv_.sizes;
    const int64_t pad = sizes.column_pad * sizes.inputs, size = sizes.columns * sizes.inputs;
    const BFloat16* from = conv_.x + (song_ * sizes.rows + y) * size;
    BFloat16* to = first_ + (1 + n_taken_++) * row_size_;
    if (pad == 0) return held_[y] = from;
    std::memset(static_cast<void*>(to), 0, pad * sizeof(BFloat16));
    std::memcpy(static_cast<void*>(to + pad), from, size * sizeof(BFloat16));
    std::memset(static_cast<void*>(to + pad + size), 0, pad * sizeof(BFloat16));
    return held_[y] = to;
  }

  const Conv& conv_;
  int64_t row_size_, n_slots_;
  std::unique_ptr<BFloat16[]> values_;
  std::vector<const BFloat16*> held_, rows_;  // held_: the copy of each row of the song
  BFloat16* first_;                           // a row of zeros, then the slots
  int64_t n_taken_ = 0, song_ = -1;
};

}  // namespace fastmte
