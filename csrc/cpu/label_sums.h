// Adds songs to the sums of their labels, once for each instruction set.
#pragma once

#include <cstdint>

namespace fastmte {

// A chunk's rows, which a vector may read beyond their ends: `copy` of the last has room behind it.
template <typename T>
struct SongRows {
  const T* x;  // (n_songs, n_features)
  const T* copy;
  int64_t last;  // the song that `copy` is for, -1 for none
  int64_t n_songs, n_features;

  const T* operator[](int64_t song) const { return song == last ? copy : x + song * n_features; }
};

// Song i has the labels col[crow[i]] to col[crow[i + 1]]; they are checked as they are met.
struct SongLabels {
  const int64_t* crow;  // (n_songs + 1)
  const int64_t* col;   // (n_pairs)
  uint64_t n_pairs;
};

// A row a label, of whole vectors; what lies behind the features is of no use.
struct LabelSums {
  double* sums;     // (n_labels, stride)
  float* group;     // (n_labels, stride), what joins the sums next; null where sums are float64
  int64_t* counts;  // (n_labels)
  int64_t n_labels;
  int64_t stride;  // a multiple of 8, of 16 with groups
};

// Adds all songs. False where crow falls or leaves col, where labels do not increase within a song
// or are none, and where a song without labels has a feature that is not finite: the sums are then
// of no use.
template <typename T>
using AddSongs = bool (*)(const SongRows<T>& rows, const SongLabels& labels, const LabelSums& to);

// The fastest here.
template <typename T>
AddSongs<T> add_songs();

}  // namespace fastmte
