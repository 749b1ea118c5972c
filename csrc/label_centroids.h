// What label_centroids accepts, and the order of its sums, on every device.
#pragma once

#include <cstdint>

#include "check.h"
#include "host_device.h"

namespace fastmte {

// The one order of additions of every device, thread count and cut of the songs;
// fastmte/reference.py has the same. Songs are added in their order into sums of a chunk each, and
// those in their order into the total. Wide float32 rows are added in float32 first, up to
// kSongsPerGroup songs of the label within the chunk: half the bytes of the sums, and an error of
// at most 15 * 2^-24 of the mean magnitude. A sum that overflows so is added in float64.
constexpr int64_t kSongsPerChunk = 8192;
constexpr int64_t kSongsPerGroup = 16;
constexpr int64_t kMostInFloat64 = 64;  // features of a float32 row; its sums stay in the L1 cache

FASTMTE_HD inline int64_t n_chunks(int64_t n_songs) {
  return (n_songs + kSongsPerChunk - 1) / kSongsPerChunk;
}

template <typename T>
constexpr FASTMTE_HD bool has_groups(int64_t n_features) {
  return sizeof(T) == sizeof(float) && n_features > kMostInFloat64;
}

constexpr const char* kLabelCentroids = "label_centroids";

inline void check_label_centroids(const Tensor& features, const Tensor& labels) {
  constexpr const char* kOp = kLabelCentroids;
  check_tensor(kOp, "features", features, 2, {ScalarType::Float, ScalarType::Double}, features);
  check_tensor(kOp, "labels", labels, 2, {ScalarType::Bool}, features);
  check_equal(kOp, "features.size(0)", features.size(0), "labels.size(0)", labels.size(0));
}

inline void check_label_centroids_csr(const Tensor& features, const Tensor& crow, const Tensor& col,
                                      int64_t n_labels) {
  constexpr const char* kOp = kLabelCentroids;
  check_tensor(kOp, "features", features, 2, {ScalarType::Float, ScalarType::Double}, features);
  check_tensor(kOp, "crow", crow, 1, {ScalarType::Long}, features);
  check_tensor(kOp, "col", col, 1, {ScalarType::Long}, features);
  check_equal(kOp, "features.size(0) + 1", features.size(0) + 1, "crow.size(0)", crow.size(0));
  check_at_least(kOp, "n_labels", n_labels, 0);
}

// What the sums are added to: sums (L, D), counts (L).
inline void check_label_sums(const Tensor& features, int64_t n_labels, const Tensor& sums,
                             const Tensor& counts) {
  constexpr const char* kOp = kLabelCentroids;
  check_tensor(kOp, "sums", sums, 2, {ScalarType::Double}, features);
  check_tensor(kOp, "counts", counts, 1, {ScalarType::Long}, features);
  check_equal(kOp, "sums.size(0)", sums.size(0), "the number of labels", n_labels);
  check_equal(kOp, "sums.size(1)", sums.size(1), "features.size(1)", features.size(1));
  check_equal(kOp, "counts.size(0)", counts.size(0), "the number of labels", n_labels);
  FASTMTE_CHECK(sums.is_contiguous(), kOp, ": sums must be contiguous");
  FASTMTE_CHECK(counts.is_contiguous(), kOp, ": counts must be contiguous");
}

// Reads the arrays, so they must be in host memory: crow (n_songs + 1), col (n_pairs).
inline void check_csr(const int64_t* crow, const int64_t* col, int64_t n_songs, int64_t n_pairs,
                      int64_t n_labels) {
  constexpr const char* kOp = kLabelCentroids;
  FASTMTE_CHECK(crow[0] == 0, kOp, ": crow must start at 0, got ", crow[0]);
  for (int64_t song = 0; song < n_songs; ++song)
    FASTMTE_CHECK(crow[song] <= crow[song + 1], kOp, ": crow must not decrease, got ",
                  crow[song + 1], " after ", crow[song], " at [", song + 1, "]");
  FASTMTE_CHECK(crow[n_songs] == n_pairs, kOp, ": crow must end at ", n_pairs, ", got ",
                crow[n_songs]);
  check_range(kOp, "col", col, n_pairs, n_labels);
  for (int64_t song = 0; song < n_songs; ++song)
    for (int64_t pair = crow[song] + 1; pair < crow[song + 1]; ++pair)
      FASTMTE_CHECK(col[pair] > col[pair - 1], kOp, ": col must increase within a song, got ",
                    col[pair], " after ", col[pair - 1], " at [", pair, "]");
}

inline void check_has_song(int64_t count, int64_t label) {
  FASTMTE_CHECK(count > 0, kLabelCentroids,
                ": labels must give every label a song, got none for label ", label);
}

}  // namespace fastmte
