// Where a convolution on blocks of positions finds its inputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "conv_pool_act.h"
#include "cpu/vector.h"

namespace fastmte {

// Most positions whose sums an engine makes at a time.
constexpr int64_t kConvPositions = 32;

// Maps and weights, contiguous. Where only some rows are held, row i lies at i % n_held, counted
// over all songs.
struct ConvSource {
  const BFloat16* x;
  const BFloat16* weight;
  ConvSizes sizes;
  int64_t n_held;

  // Steps of kConvInputs inputs in one sum.
  int64_t n_steps() const {
    return sizes.kernel_rows * sizes.kernel_columns * sizes.inputs / kConvInputs;
  }
};

// A convolution: its sums are those of all sources, which have outputs of the same sizes.
struct Conv {
  static constexpr int kMostSources = 2;

  ConvSource sources[kMostSources];
  int n_sources;
  const float* bias;
  const BFloat16* onto;  // null for none
  BFloat16* out;
  int64_t onto_held, out_held;  // as of sources
  Activation activation;

  const ConvSizes& sizes() const { return sources[0].sizes; }
  int64_t n_rows() const { return sizes().n_songs * sizes().out_rows(); }
  int64_t n_blocks() const { return sizes().outputs / kConvOutputs; }
  bool is_pooled() const { return sizes().pool_rows * sizes().pool_columns > 1; }

  int64_t n_steps() const {
    int64_t sum = 0;
    for (int i = 0; i < n_sources; ++i) sum += sources[i].n_steps();
    return sum;
  }
};

// A row of the convolution in blocks of equal size: the last begins where it ends with the row, and
// so does the second half of each with its block. What lies in two of them is computed twice.
struct ConvBlocks {
  explicit ConvBlocks(const ConvSizes& sizes)
      : pool_columns(sizes.pool_columns), n_windows(sizes.out_columns()) {
    const int64_t most = kConvPositions / pool_columns;
    n = (n_windows + most - 1) / most;
    windows = (n_windows + n - 1) / n;
    positions = windows * pool_columns;
    half = (positions + 1) / 2;
  }

  int64_t first_window(int64_t block) const {
    return std::min(block * windows, n_windows - windows);
  }

  // Of half 2 i and 2 i + 1 of block i.
  int64_t first_position(int64_t half_block) const {
    const int64_t first = first_window(half_block / 2) * pool_columns;
    return half_block % 2 ? first + positions - half : first;
  }

  int64_t pool_columns, n_windows, n, windows, positions, half;
};

// The inputs of a block of positions: of each kernel row, where those of a half's first position
// begin. Those of its neighbour lie `stride` further.
struct ConvTaps {
  const BFloat16* const* upper;
  const BFloat16* const* lower;
  int64_t n_rows, row_values, stride;
};

// What the sums after these read first, and how much of it each step fetches.
struct ConvAhead {
  const BFloat16* at = nullptr;
  int64_t n_lines = 0;  // of the cache: kConvInputs values each
};

// Inputs are read where they lie, but for those of the blocks at the ends of a row: they are
// copied, with the padding.
class ConvInput {
 public:
  ConvInput(const ConvSource& source, const ConvBlocks& blocks)
      : x_(source.x),
        n_held_(source.n_held),
        sizes_(source.sizes),
        blocks_(blocks),
        half_size_(((blocks.half - 1) * sizes_.column_stride + sizes_.kernel_columns) *
                   sizes_.inputs),
        edge_(2 * blocks.n, -1),
        held_(sizes_.rows),
        upper_(sizes_.kernel_rows),
        lower_(sizes_.kernel_rows) {
    for (int64_t i = 0; i < 2 * blocks.n; ++i)
      if (first_column(i) < 0 || first_column(i) + half_size_ / sizes_.inputs > sizes_.columns)
        edge_[i] = n_edges_++;
    const int64_t fit = kMostBytes / sizeof(BFloat16) / (sizes_.columns * sizes_.inputs);
    n_slots_ = std::max((sizes_.pool_rows - 1) * sizes_.row_stride + sizes_.kernel_rows,
                        std::min(fit, sizes_.n_songs * sizes_.rows));
    values_.reset(new BFloat16[(1 + n_slots_ * n_edges_) * half_size_ + 32]);
    const auto address = reinterpret_cast<uintptr_t>(values_.get());
    zeros_ = reinterpret_cast<BFloat16*>((address + 63) / 64 * 64);
    std::memset(static_cast<void*>(zeros_), 0, half_size_ * sizeof(BFloat16));
  }

  // Takes output rows from `begin` on, as many as read what the second-level cache holds and at
  // most those before `end`; returns the end of them.
  int64_t take(int64_t begin, int64_t end) {
    rows_.clear();
    n_taken_ = 0;
    song_ = -1;
    first_taken_ = begin;
    int64_t at = begin;
    for (; at < end; ++at) {
      const int64_t song = at / sizes_.out_rows(), row = at % sizes_.out_rows();
      if (song != song_) std::fill(held_.begin(), held_.end(), Row{});
      song_ = song;
      if (at > begin && n_taken_ + n_missing(row) > n_slots_) break;
      for (int64_t r = 0; r < sizes_.pool_rows; ++r)
        for (int64_t dy = 0; dy < sizes_.kernel_rows; ++dy)
          rows_.push_back(read(first_row(row) + r * sizes_.row_stride + dy));
    }
    return at;
  }

  // Of one of the pooled rows of an output row that was taken; until the next call.
  ConvTaps taps(int64_t row, int64_t pooled_row, int64_t block) {
    const Row* rows =
        rows_.data() + ((row - first_taken_) * sizes_.pool_rows + pooled_row) * sizes_.kernel_rows;
    for (int64_t dy = 0; dy < sizes_.kernel_rows; ++dy) {
      upper_[dy] = place(rows[dy], 2 * block);
      lower_[dy] = place(rows[dy], 2 * block + 1);
    }
    return {upper_.data(), lower_.data(), sizes_.kernel_rows, sizes_.kernel_columns * sizes_.inputs,
            sizes_.column_stride * sizes_.inputs};
  }

 private:
  static constexpr int64_t kMostBytes = 640 << 10;

  // A row of the input and the copies of its ends; both null outside the map.
  struct Row {
    const BFloat16* x = nullptr;
    const BFloat16* edges = nullptr;
  };

  int64_t first_row(int64_t row) const {
    return row * sizes_.pool_rows * sizes_.row_stride - sizes_.row_pad;
  }

  int64_t first_column(int64_t half_block) const {
    return blocks_.first_position(half_block) * sizes_.column_stride - sizes_.column_pad;
  }

  bool is_inside(int64_t y) const { return y >= 0 && y < sizes_.rows; }

  int64_t n_missing(int64_t row) const {
    const int64_t n = (sizes_.pool_rows - 1) * sizes_.row_stride + sizes_.kernel_rows;
    int64_t missing = 0;
    for (int64_t y = first_row(row); y < first_row(row) + n; ++y)
      missing += is_inside(y) && !held_[y].x;
    return missing;
  }

  const BFloat16* place(const Row& row, int64_t half_block) const {
    if (!row.x) return zeros_;
    if (edge_[half_block] >= 0) return row.edges + edge_[half_block] * half_size_;
    return row.x + first_column(half_block) * sizes_.inputs;
  }

  Row read(int64_t y) {
    if (!is_inside(y)) return {};
    if (held_[y].x) return held_[y];
    const int64_t place = (song_ * sizes_.rows + y) % n_held_;
    const BFloat16* x = x_ + place * sizes_.columns * sizes_.inputs;
    BFloat16* edges = zeros_ + (1 + n_taken_++ * n_edges_) * half_size_;
    for (int64_t i = 0; i < 2 * blocks_.n; ++i)
      if (edge_[i] >= 0) copy(x, first_column(i), edges + edge_[i] * half_size_);
    return held_[y] = {x, edges};
  }

  // The columns from `first` on that a half reads, zeros where there are none.
  void copy(const BFloat16* x, int64_t first, BFloat16* to) const {
    const int64_t n = half_size_ / sizes_.inputs, end = first + n;
    const int64_t from = std::clamp(first, int64_t{0}, sizes_.columns);
    const int64_t until = std::clamp(end, from, sizes_.columns);
    std::memset(static_cast<void*>(to), 0, half_size_ * sizeof(BFloat16));
    std::memcpy(static_cast<void*>(to + (from - first) * sizes_.inputs), x + from * sizes_.inputs,
                (until - from) * sizes_.inputs * sizeof(BFloat16));
  }

  const BFloat16* x_;
  int64_t n_held_;
  ConvSizes sizes_;
  ConvBlocks blocks_;
  int64_t half_size_, n_edges_ = 0, n_slots_ = 0;
  std::vector<int64_t> edge_;  // which copy each half has; -1 for none
  std::unique_ptr<BFloat16[]> values_;
  BFloat16* zeros_ = nullptr;     // of a half, then the copies
  std::vector<Row> held_, rows_;  // held_: those of each row of the song
  std::vector<const BFloat16*> upper_, lower_;
  int64_t n_taken_ = 0, first_taken_ = 0, song_ = -1;
};

}  // namespace fastmte
