// What label_centroids accepts, and the order of its sums, on every device.
#pragma once

#include <cstdint>

#include "check.h"
#include "host_device.h"

namespace fastmte {

constexpr int64_t kMaxChunks = 64;
constexpr int64_t kMinSongsPerChunk = 8192;

// How many songs are summed before their sum joins the total. One order of additions for every
// device and thread count; fastmte/reference.py has the same.
FASTMTE_HD inline int64_t songs_per_chunk(int64_t n_songs) {
  const int64_t even = (n_songs + kMaxChunks - 1) / kMaxChunks;
  return even > kMinSongsPerChunk ? even : kMinSongsPerChunk;
}

FASTMTE_HD inline int64_t n_chunks(int64_t n_songs) {
  return (n_songs + songs_per_chunk(n_songs) - 1) / songs_per_chunk(n_songs);
}

inline void check_label_centroids(const Tensor& features, const Tensor& labels) {
  constexpr const char* kOp = "label_centroids";
  check_tensor(kOp, "features", features, 2, {ScalarType::Float, ScalarType::Double}, features);
  check_tensor(kOp, "labels", labels, 2, {ScalarType::Bool}, features);
  check_equal(kOp, "features.size(0)", features.size(0), "labels.size(0)", labels.size(0));
}

inline void check_label_centroids_csr(const Tensor& features, const Tensor& crow, const Tensor& col,
                                      int64_t n_labels) {
  constexpr const char* kOp = "label_centroids";
  check_tensor(kOp, "features", features, 2, {ScalarType::Float, ScalarType::Double}, features);
  check_tensor(kOp, "crow", crow, 1, {ScalarType::Long}, features);
  check_tensor(kOp, "col", col, 1, {ScalarType::Long}, features);
  check_equal(kOp, "features.size(0) + 1", features.size(0) + 1, "crow.size(0)", crow.size(0));
  check_at_least(kOp, "n_labels", n_labels, 0);
}

// Reads the arrays, so they must be in host memory: crow (n_songs + 1), col (n_pairs).
inline void check_csr(const int64_t* crow, const int64_t* col, int64_t n_songs, int64_t n_pairs,
                      int64_t n_labels) {
  constexpr const char* kOp = "label_centroids";
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
  FASTMTE_CHECK(count > 0, "label_centroids: labels must give every label a song, got none for ",
                "label ", label);
}

}  // namespace fastmte
