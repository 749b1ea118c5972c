// label_centroids on the CPU: sums over chunks of songs, then over the chunks in their order.
#include "label_centroids.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "simd.h"

namespace fastmte {
namespace {

// (N, L) bool, row-major.
struct DenseLabels {
  const bool* has;
  int64_t n_labels;

  template <typename Visit>
  void visit(int64_t song, Visit&& add) const {
    const bool* row = has + song * n_labels;
    for (int64_t label = 0; label < n_labels; ++label) {
      uint64_t eight = 1;  // most songs have 1-3 labels: pass eight that are all false at once
      if (label + 8 <= n_labels) std::memcpy(&eight, row + label, 8);
      if (eight == 0)
        label += 7;
      else if (row[label])
        add(label);
    }
  }
};

struct CsrLabels {
  const int64_t* crow;
  const int64_t* col;
  int64_t n_labels;

  template <typename Visit>
  void visit(int64_t song, Visit&& add) const {
    for (int64_t pair = crow[song]; pair < crow[song + 1]; ++pair) add(col[pair]);
  }
};

template <typename T>
FASTMTE_INLINE void add_body(const T* x, double* sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(x[i]);
}

template <typename T>
void add_baseline(const T* x, double* sum, int64_t n) {
  add_body(x, sum, n);
}

template <typename T>
bool is_finite_baseline(const T* x, int64_t n) {
  return is_finite_body(x, n);
}

#ifdef FASTMTE_HAS_AVX2
template <typename T>
FASTMTE_CLONE_FOR_AVX2 void add_avx2(const T* x, double* sum, int64_t n) {
  add_body(x, sum, n);
}

template <typename T>
FASTMTE_CLONE_FOR_AVX2 bool is_finite_avx2(const T* x, int64_t n) {
  return is_finite_body(x, n);
}
#else
#define add_avx2 add_baseline
#define is_finite_avx2 is_finite_baseline
#endif

// Partial sums (n_chunks, L, D) and counts (n_chunks, L); returns the first song with a feature
// that is not finite, or n_songs.
template <typename T, typename Labels>
int64_t sum_chunks(const T* x, const Labels& labels, int64_t n_songs, int64_t n_features,
                   double* sums, int64_t* counts) {
  const auto add = has_avx2() ? add_avx2<T> : add_baseline<T>;
  const auto is_finite = has_avx2() ? is_finite_avx2<T> : is_finite_baseline<T>;
  const int64_t chunk_size = songs_per_chunk(n_songs);
  std::atomic<int64_t> bad_song{n_songs};
  torch::stable::parallel_for(0, n_chunks(n_songs), 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      double* sum = sums + chunk * labels.n_labels * n_features;
      int64_t* count = counts + chunk * labels.n_labels;
      const int64_t last = std::min(n_songs, (chunk + 1) * chunk_size);
      for (int64_t song = chunk * chunk_size; song < last; ++song) {
        const T* row = x + song * n_features;
        if (!is_finite(row, n_features)) keep_least(bad_song, song);
        labels.visit(song, [&](int64_t label) {
          add(row, sum + label * n_features, n_features);
          ++count[label];
        });
      }
    }
  });
  return bad_song;
}

template <typename T, typename Labels>
void mean(const Tensor& features, const Labels& labels, Tensor& centroids) {
  const T* x = features.const_data_ptr<T>();
  const int64_t n_songs = features.size(0), n_features = features.size(1);
  const int64_t n_labels = labels.n_labels, size = n_labels * n_features;
  std::vector<double> sums(n_chunks(n_songs) * size, 0.0);
  std::vector<int64_t> counts(n_chunks(n_songs) * n_labels, 0);
  const int64_t bad = sum_chunks(x, labels, n_songs, n_features, sums.data(), counts.data());
  if (bad < n_songs) {
    int64_t at = bad * n_features;
    while (std::isfinite(x[at])) ++at;
    fail_not_finite("label_centroids", "features", x[at], at, n_features);
  }

  std::vector<double> total(size, 0.0);
  std::vector<int64_t> count(n_labels, 0);
  for (int64_t chunk = 0; chunk < n_chunks(n_songs); ++chunk) {
    for (int64_t i = 0; i < size; ++i) total[i] += sums[chunk * size + i];
    for (int64_t label = 0; label < n_labels; ++label)
      count[label] += counts[chunk * n_labels + label];
  }
  T* out = centroids.mutable_data_ptr<T>();
  for (int64_t label = 0; label < n_labels; ++label) {
    check_has_song(count[label], label);
    for (int64_t d = 0; d < n_features; ++d)
      out[label * n_features + d] =
          static_cast<T>(total[label * n_features + d] / static_cast<double>(count[label]));
  }
}

template <typename Labels>
Tensor mean_of(const Tensor& features, const Labels& labels) {
  Tensor centroids = torch::stable::new_empty(features, {labels.n_labels, features.size(1)});
  if (features.scalar_type() == ScalarType::Float)
    mean<float>(features, labels, centroids);
  else
    mean<double>(features, labels, centroids);
  return centroids;
}

// See fastmte/ops.py.
Tensor label_centroids(const Tensor& features, const Tensor& labels_) {
  check_label_centroids(features, labels_);
  const Tensor labels = torch::stable::contiguous(labels_);
  return mean_of(torch::stable::contiguous(features),
                 DenseLabels{labels.const_data_ptr<bool>(), labels.size(1)});
}

Tensor label_centroids_csr(const Tensor& features, const Tensor& crow_, const Tensor& col_,
                           int64_t n_labels) {
  check_label_centroids_csr(features, crow_, col_, n_labels);
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  const CsrLabels labels{crow.const_data_ptr<int64_t>(), col.const_data_ptr<int64_t>(), n_labels};
  check_csr(labels.crow, labels.col, features.size(0), col.size(0), n_labels);
  return mean_of(torch::stable::contiguous(features), labels);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("label_centroids", TORCH_BOX(&label_centroids));
  m.impl("label_centroids.csr", TORCH_BOX(&label_centroids_csr));
}

}  // namespace fastmte
