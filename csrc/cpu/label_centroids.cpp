// label_centroids on the CPU: chunks of songs on every thread, joined in their order.
#include "label_centroids.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/label_sums.h"
#include "cpu/simd.h"
#include "cpu/vector.h"

namespace fastmte {
namespace {

// The labels of the songs of one chunk, where they are not listed already.
struct Lists {
  std::vector<int64_t> crow, col;
};

// (N, L) bool, row-major.
struct DenseLabels {
  const uint8_t* has;
  int64_t n_labels;

  SongLabels of(int64_t begin, int64_t end, Lists& lists) const {
    lists.crow.assign(1, 0);
    int64_t n = 0;
    for (int64_t song = begin; song < end; ++song) {
      if (static_cast<int64_t>(lists.col.size()) < n + n_labels + kAtOnce)
        lists.col.resize(2 * (n + n_labels + kAtOnce));
      for (int64_t label = 0; label < n_labels; label += 64)
        n = append(label, mask_of(song, label), lists.col.data(), n);
      lists.crow.push_back(n);
    }
    return {lists.crow.data(), lists.col.data(), static_cast<uint64_t>(n)};
  }

 private:
  static constexpr int kAtOnce = 4;

  // Bit i is whether the song has label + i.
  uint64_t mask_of(int64_t song, int64_t label) const {
    const uint8_t* row = has + song * n_labels + label;
    const int64_t n = std::min<int64_t>(n_labels - label, 64);
    uint64_t mask = 0;
    int64_t i = 0;
#ifdef FASTMTE_HAS_AVX2
    for (; i + 16 <= n; i += 16) mask |= bits_of_16(row + i) << i;
#endif
    for (; i + 8 <= n; i += 8) mask |= bits_of_8(row + i) << i;
    for (; i < n; ++i) mask |= static_cast<uint64_t>(row[i] != 0) << i;
    return mask;
  }

#ifdef FASTMTE_HAS_AVX2
  static uint64_t bits_of_16(const uint8_t* bytes) {  // instructions that all x86-64 have
    const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return _mm_movemask_epi8(_mm_cmpeq_epi8(loaded, _mm_setzero_si128())) ^ 0xffff;
  }
#endif

  // The highest bits of the bytes that are not 0, gathered by a product.
  static uint64_t bits_of_8(const uint8_t* row) {
    constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f, kGather = 0x0002040810204081;
    uint64_t bytes;
    std::memcpy(&bytes, row, 8);
    return ((((bytes & kLow) + kLow) | bytes) & ~kLow) * kGather >> 56;
  }

  // Most songs have up to kAtOnce labels, and no branch tells how many.
  static int64_t append(int64_t label, uint64_t mask, int64_t* col, int64_t n) {
    for (int i = 0; i < kAtOnce; ++i) {
      col[n] = label + __builtin_ctzll(mask | 1ull << 63);
      n += mask != 0;
      mask &= mask - 1;
    }
    for (; mask != 0; mask &= mask - 1) col[n++] = label + __builtin_ctzll(mask);
    return n;
  }
};

// Song i has the labels col[crow[i]] to col[crow[i + 1]].
struct CsrLabels {
  const int64_t* crow;  // (n_songs + 1)
  const int64_t* col;   // (n_pairs)
  int64_t n_pairs, n_labels;

  SongLabels of(int64_t begin, int64_t, Lists&) const {
    return {crow + begin, col, static_cast<uint64_t>(n_pairs)};
  }
};

// Sums and counts of one chunk, on one thread; used for one chunk after another.
template <typename T>
class ChunkSums {
 public:
  ChunkSums(int64_t n_labels, int64_t n_features)
      : n_labels_(n_labels),
        n_features_(n_features),
        in_groups_(has_groups<T>(n_features)),
        stride_(in_groups_ ? (n_features + 15) / 16 * 16 : (n_features + 7) / 8 * 8),
        sums_(n_labels * stride_),
        group_(in_groups_ ? n_labels * stride_ : 0),
        counts_(n_labels),
        last_row_(n_features + kRoom) {}

  // Sets them to those of songs [begin, end), of which `is_last` are followed by no other. False
  // where the labels are not valid or a feature is not finite; then they are of no use.
  template <typename Labels>
  bool set(const T* x, const Labels& labels, int64_t begin, int64_t end, bool is_last) {
    const T* first = x + begin * n_features_;
    const int64_t n = end - begin;
    const SongRows<T> rows{first, last_row_.data(), is_last ? n - 1 : -1, n, n_features_};
    if (is_last) std::copy_n(first + (n - 1) * n_features_, n_features_, last_row_.begin());
    const SongLabels listed = labels.of(begin, end, lists_);
    if (!add(rows, listed, in_groups_)) return false;
    if (is_finite()) return true;
    if (!is_finite_body(first, n * n_features_)) return false;
    if (in_groups_) widen(rows, listed);
    return true;
  }

  void join(double* sums, int64_t* counts) {
    for (int64_t label = 0; label < n_labels_; ++label) {
      const double* sum = sums_.data() + label * stride_;
      for (int64_t d = 0; d < n_features_; ++d) sums[label * n_features_ + d] += sum[d];
      counts[label] += counts_[label];
    }
  }

 private:
  static constexpr int64_t kRoom = 16;  // values of the widest vector

  int64_t n_labels_, n_features_;
  bool in_groups_;
  int64_t stride_;
  Aligned<double> sums_;
  Aligned<float> group_;
  std::vector<int64_t> counts_;
  std::vector<T> last_row_;
  Lists lists_;

  bool add(const SongRows<T>& rows, const SongLabels& labels, bool in_groups) {
    std::fill_n(sums_.data(), n_labels_ * stride_, 0.0);
    std::fill(counts_.begin(), counts_.end(), 0);
    if (in_groups) std::fill_n(group_.data(), n_labels_ * stride_, 0.0f);
    float* group = in_groups ? group_.data() : nullptr;
    return add_songs<T>()(rows, labels, {sums_.data(), group, counts_.data(), n_labels_, stride_});
  }

  // Sums that overflowed in float32 become those of float64.
  void widen(const SongRows<T>& rows, const SongLabels& labels) {
    const std::vector<double> narrow(sums_.data(), sums_.data() + n_labels_ * stride_);
    add(rows, labels, false);
    for (size_t i = 0; i < narrow.size(); ++i)
      if (std::isfinite(narrow[i])) sums_.data()[i] = narrow[i];
  }

  // NaN and infinity stay in the sums they are added to.
  bool is_finite() {
    for (int64_t label = 0; label < n_labels_; ++label)
      if (!is_finite_body(sums_.data() + label * stride_, n_features_)) return false;
    return true;
  }
};

// Adds all songs to sums (L, D) and counts (L). False as ChunkSums::set; then some are added.
template <typename T, typename Labels>
bool add_all(const T* x, const Labels& labels, int64_t n_songs, int64_t n_features, double* sums,
             int64_t* counts) {
  const int64_t chunks = n_chunks(n_songs);
  const int64_t at_once = std::min<int64_t>(chunks, torch::stable::get_num_threads());
  std::vector<ChunkSums<T>> parts(at_once, ChunkSums<T>(labels.n_labels, n_features));
  std::atomic<bool> is_valid{true};
  for (int64_t first = 0; first < chunks && is_valid; first += at_once) {
    const int64_t n = std::min(at_once, chunks - first);
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t song = (first + i) * kSongsPerChunk;
        const int64_t last = std::min(n_songs, song + kSongsPerChunk);
        if (!parts[i].set(x, labels, song, last, last == n_songs)) is_valid = false;
      }
    });
    for (int64_t i = 0; i < n; ++i) parts[i].join(sums, counts);
  }
  return is_valid;
}

template <typename T>
[[noreturn]] void fail_for_features(const T* x, int64_t n_features) {
  int64_t at = 0;
  while (std::isfinite(x[at])) ++at;
  fail_not_finite(kLabelCentroids, "features", x[at], at, n_features);
}

void check(const DenseLabels&, int64_t) {}

void check(const CsrLabels& labels, int64_t n_songs) {
  check_csr(labels.crow, labels.col, n_songs, labels.n_pairs, labels.n_labels);
}

// As add_all, or the error of what is not valid.
template <typename T, typename Labels>
void add_checked(const Tensor& features, const Labels& labels, double* sums, int64_t* counts) {
  const T* x = features.const_data_ptr<T>();
  const int64_t n_songs = features.size(0), n_features = features.size(1);
  if (add_all(x, labels, n_songs, n_features, sums, counts)) return;
  check(labels, n_songs);
  fail_for_features(x, n_features);
}

template <typename Labels>
void add_songs_of(const Tensor& features, const Labels& labels, double* sums, int64_t* counts) {
  if (features.scalar_type() == ScalarType::Float)
    add_checked<float>(features, labels, sums, counts);
  else
    add_checked<double>(features, labels, sums, counts);
}

template <typename Labels>
Tensor mean_of(const Tensor& features, const Labels& labels) {
  const int64_t n_labels = labels.n_labels, n_features = features.size(1);
  std::vector<double> sums(n_labels * n_features);
  std::vector<int64_t> counts(n_labels);
  add_songs_of(features, labels, sums.data(), counts.data());
  Tensor centroids = torch::stable::new_empty(features, {n_labels, n_features});
  const auto divide = [&](auto* out) {
    using T = std::remove_reference_t<decltype(*out)>;
    for (int64_t label = 0; label < n_labels; ++label) {
      check_has_song(counts[label], label);
      for (int64_t i = label * n_features; i < (label + 1) * n_features; ++i)
        out[i] = static_cast<T>(sums[i] / static_cast<double>(counts[label]));
    }
  };
  if (features.scalar_type() == ScalarType::Float)
    divide(centroids.mutable_data_ptr<float>());
  else
    divide(centroids.mutable_data_ptr<double>());
  return centroids;
}

// Sums only change where all songs are valid.
template <typename Labels>
void add_to(const Tensor& features, const Labels& labels, Tensor& sums, Tensor& counts) {
  double* sum = sums.mutable_data_ptr<double>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  std::vector<double> new_sums(sums.numel());
  std::vector<int64_t> new_counts(counts.numel());
  std::copy_n(sum, new_sums.size(), new_sums.begin());
  std::copy_n(count, new_counts.size(), new_counts.begin());
  add_songs_of(features, labels, new_sums.data(), new_counts.data());
  std::copy_n(new_sums.begin(), new_sums.size(), sum);
  std::copy_n(new_counts.begin(), new_counts.size(), count);
}

DenseLabels dense(const Tensor& labels) {
  return {reinterpret_cast<const uint8_t*>(labels.const_data_ptr<bool>()), labels.size(1)};
}

// The ends of crow are checked here, what lies between as it is met.
CsrLabels listed(const Tensor& crow, const Tensor& col, int64_t n_labels) {
  const CsrLabels labels{crow.const_data_ptr<int64_t>(), col.const_data_ptr<int64_t>(), col.size(0),
                         n_labels};
  const int64_t n_songs = crow.size(0) - 1;
  if (labels.crow[0] != 0 || labels.crow[n_songs] != labels.n_pairs) check(labels, n_songs);
  return labels;
}

// See fastmte/ops.py.
Tensor label_centroids(const Tensor& features, const Tensor& labels_) {
  check_label_centroids(features, labels_);
  const Tensor labels = torch::stable::contiguous(labels_);
  return mean_of(torch::stable::contiguous(features), dense(labels));
}

Tensor label_centroids_csr(const Tensor& features, const Tensor& crow_, const Tensor& col_,
                           int64_t n_labels) {
  check_label_centroids_csr(features, crow_, col_, n_labels);
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  return mean_of(torch::stable::contiguous(features), listed(crow, col, n_labels));
}

void label_centroids_add(const Tensor& features, const Tensor& labels_, Tensor sums,
                         Tensor counts) {
  check_label_centroids(features, labels_);
  check_label_sums(features, labels_.size(1), sums, counts);
  const Tensor labels = torch::stable::contiguous(labels_);
  add_to(torch::stable::contiguous(features), dense(labels), sums, counts);
}

void label_centroids_add_csr(const Tensor& features, const Tensor& crow_, const Tensor& col_,
                             Tensor sums, Tensor counts) {
  check_label_centroids_csr(features, crow_, col_, counts.numel());
  check_label_sums(features, counts.numel(), sums, counts);
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  add_to(torch::stable::contiguous(features), listed(crow, col, counts.numel()), sums, counts);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("label_centroids", TORCH_BOX(&label_centroids));
  m.impl("label_centroids.csr", TORCH_BOX(&label_centroids_csr));
  m.impl("label_centroids.add", TORCH_BOX(&label_centroids_add));
  m.impl("label_centroids.add_csr", TORCH_BOX(&label_centroids_add_csr));
}

}  // namespace fastmte
