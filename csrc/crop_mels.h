// What crop_mels accepts, and where each value of a crop comes from, on every device.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <string>

#include "check.h"
#include "host_device.h"

namespace fastmte {

struct CropTables {
  const int64_t* offsets;  // (n_songs)
  const int64_t* lengths;  // (n_songs)
  const int64_t* index;    // (n_crops)
  const int64_t* starts;   // (n_crops), or null for the centre
  int64_t n_songs, n_crops, n_values, frames, bands;
};

struct CropSource {
  int64_t song, offset, length, start;
};

// Where the centre crop begins; a song that is too short is repeated until the crop fits.
FASTMTE_HD inline int64_t centre_start(int64_t length, int64_t frames) {
  const int64_t repeats = length < frames ? (frames + length - 1) / length : 1;
  return (length * repeats - frames) / 2;
}

// Any frame of a short song may be the first.
FASTMTE_HD inline int64_t last_start(int64_t length, int64_t frames) {
  return length < frames ? length - 1 : length - frames;
}

FASTMTE_HD inline CropSource crop_source(const CropTables& tables, int64_t crop) {
  const int64_t song = tables.index[crop];
  const int64_t length = tables.lengths[song];
  const int64_t start = tables.starts ? tables.starts[crop] : centre_start(length, tables.frames);
  return {song, tables.offsets[song], length, start};
}

// Where in the packed mels a value of a crop lies.
FASTMTE_HD inline int64_t crop_position(const CropSource& source, int64_t band, int64_t frame) {
  return source.offset + band * source.length + (source.start + frame) % source.length;
}

FASTMTE_HD inline bool is_song(const CropTables& tables, int64_t crop) {
  return tables.index[crop] >= 0 && tables.index[crop] < tables.n_songs;
}

FASTMTE_HD inline bool has_frames(const CropTables& tables, int64_t crop) {
  return tables.lengths[tables.index[crop]] >= 1;
}

FASTMTE_HD inline bool lies_inside(const CropTables& tables, int64_t crop) {
  const int64_t song = tables.index[crop];
  const int64_t offset = tables.offsets[song];
  return offset >= 0 && offset <= tables.n_values &&
         tables.lengths[song] <= (tables.n_values - offset) / tables.bands;
}

FASTMTE_HD inline bool starts_inside(const CropTables& tables, int64_t crop) {
  if (!tables.starts) return true;
  const int64_t last = last_start(tables.lengths[tables.index[crop]], tables.frames);
  return tables.starts[crop] >= 0 && tables.starts[crop] <= last;
}

FASTMTE_HD inline bool is_valid(const CropTables& tables, int64_t crop) {
  return is_song(tables, crop) && has_frames(tables, crop) && lies_inside(tables, crop) &&
         starts_inside(tables, crop);
}

// The arguments, checked as far as their data need not be read, and contiguous.
struct CropInputs {
  Tensor mels, offsets, lengths, index;
  std::optional<Tensor> starts;
  CropTables tables;
};

inline CropInputs crop_inputs(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                              const Tensor& index, const std::optional<Tensor>& starts,
                              int64_t frames, int64_t bands) {
  constexpr const char* kOp = "crop_mels";
  check_tensor(kOp, "mels", mels, 1, {ScalarType::Float, ScalarType::Half}, mels);
  check_tensor(kOp, "offsets", offsets, 1, {ScalarType::Long}, mels);
  check_tensor(kOp, "lengths", lengths, 1, {ScalarType::Long}, mels);
  check_tensor(kOp, "index", index, 1, {ScalarType::Long}, mels);
  if (starts) check_tensor(kOp, "starts", *starts, 1, {ScalarType::Long}, mels);
  check_equal(kOp, "offsets.size(0)", offsets.size(0), "lengths.size(0)", lengths.size(0));
  if (starts) check_equal(kOp, "index.size(0)", index.size(0), "starts.size(0)", starts->size(0));
  check_at_least(kOp, "frames", frames, 1);
  check_at_least(kOp, "bands", bands, 1);

  CropInputs inputs{torch::stable::contiguous(mels),
                    torch::stable::contiguous(offsets),
                    torch::stable::contiguous(lengths),
                    torch::stable::contiguous(index),
                    std::nullopt,
                    {}};
  if (starts) inputs.starts = torch::stable::contiguous(*starts);
  inputs.tables = {inputs.offsets.const_data_ptr<int64_t>(),
                   inputs.lengths.const_data_ptr<int64_t>(),
                   inputs.index.const_data_ptr<int64_t>(),
                   starts ? inputs.starts->const_data_ptr<int64_t>() : nullptr,
                   offsets.size(0),
                   index.size(0),
                   mels.numel(),
                   frames,
                   bands};
  return inputs;
}

// The same with the tensor that is to hold the crops.
inline CropInputs crop_inputs(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                              const Tensor& index, const std::optional<Tensor>& starts,
                              const Tensor& crops) {
  check_tensor("crop_mels", "crops", crops, 3, {ScalarType::Float}, mels);
  if (index.dim() == 1)  // else the rest of the checks says so
    check_equal("crop_mels", "crops.size(0)", crops.size(0), "index.size(0)", index.size(0));
  return crop_inputs(mels, offsets, lengths, index, starts, crops.size(2), crops.size(1));
}

// Reads the tables, so they must be in host memory. One loop a rule: the rule that comes first
// speaks, whichever crop breaks it.
inline void check_crop_tables(const CropTables& tables) {
  const int64_t n = tables.n_crops;
  check_range("crop_mels", "index", tables.index, n, tables.n_songs);
  for (int64_t crop = 0; crop < n; ++crop)
    FASTMTE_CHECK(has_frames(tables, crop), "crop_mels: lengths must be at least 1, got ",
                  tables.lengths[tables.index[crop]], " for song ", tables.index[crop]);
  for (int64_t crop = 0; crop < n; ++crop)
    FASTMTE_CHECK(lies_inside(tables, crop), "crop_mels: song ", tables.index[crop],
                  " must lie inside mels of ", tables.n_values, " elements, got offset ",
                  tables.offsets[tables.index[crop]], " and length ",
                  tables.lengths[tables.index[crop]]);
  for (int64_t crop = 0; crop < n; ++crop)
    FASTMTE_CHECK(starts_inside(tables, crop), "crop_mels: starts must be in [0, ",
                  last_start(tables.lengths[tables.index[crop]], tables.frames), "], got ",
                  tables.starts[crop], " at [", crop, "]");
}

[[noreturn]] inline void fail_crop_not_finite(const CropSource& source, int64_t position,
                                              double value) {
  fail_not_finite("crop_mels", "mels", value,
                  "[" + std::to_string(position) + "] (song " + std::to_string(source.song) + ")");
}

}  // namespace fastmte
