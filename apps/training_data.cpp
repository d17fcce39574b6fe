// SPDX-License-Identifier: Apache-2.0
#include "apps/training_data.hpp"

#include <algorithm>
#include <span>
#include <vector>

#include "apps/logits.hpp"
#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "core/safetensors.hpp"
#include "training/cross_entropy.hpp"

namespace portolan {
namespace {

class RepeatedBatch final : public TrainingData {
 public:
  RepeatedBatch(TrainingBatch batch, std::int64_t length)
      : batch_(std::move(batch)), length_(length) {}
  [[nodiscard]] TrainingBatch batch(std::int64_t /*step*/) const override { return batch_; }
  [[nodiscard]] std::int64_t sequence_length() const override { return length_; }

 private:
  TrainingBatch batch_;
  std::int64_t length_;
};

class Bytes final : public TrainingData {
 public:
  Bytes(const std::string& path, std::int64_t batch_size, std::int64_t length)
      : text_(path), batch_size_(batch_size), length_(length) {
    if (size() < length) {
      throw InputError(fmt::format("{}: expected at least {} bytes, one sequence, found {}",
                                   text_.name(), length, size()));
    }
  }

  [[nodiscard]] TrainingBatch batch(std::int64_t step) const override {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(batch_size_ * length_));
    std::int64_t at = step * std::ssize(bytes) % size();
    for (std::int64_t done = 0; done < std::ssize(bytes);) {
      const std::int64_t count = std::min(std::ssize(bytes) - done, size() - at);
      text_.read(static_cast<std::uint64_t>(at),
                 std::as_writable_bytes(std::span(bytes))
                     .subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)));
      done += count;
      at = (at + count) % size();
    }
    TrainingBatch batch{{bytes.begin(), bytes.end()}, {}, batch_size_, {}};
    batch.labels = batch.ids;
    return batch;
  }
  [[nodiscard]] std::int64_t sequence_length() const override { return length_; }

 private:
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(text_.size()); }

  InputFile text_;
  std::int64_t batch_size_;
  std::int64_t length_;
};

/// Consecutive tokens, wrapping round at their end.
class Tokens final : public TrainingData {
 public:
  Tokens(std::vector<TokenId> ids, std::int64_t batch_size, std::int64_t length)
      : ids_(std::move(ids)), batch_size_(batch_size), length_(length) {}

  [[nodiscard]] TrainingBatch batch(std::int64_t step) const override {
    const std::int64_t count = batch_size_ * length_;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      ids[static_cast<std::size_t>(i)] =
          ids_[static_cast<std::size_t>((step * count + i) % std::ssize(ids_))];
    }
    TrainingBatch batch{std::move(ids), {}, batch_size_, {}};
    batch.labels = batch.ids;
    return batch;
  }
  [[nodiscard]] std::int64_t sequence_length() const override { return length_; }

 private:
  std::vector<TokenId> ids_;
  std::int64_t batch_size_;
  std::int64_t length_;
};

}  // namespace

std::unique_ptr<TrainingData> read_training_text(const std::string& path,
                                                 const Tokenizer& tokenizer,
                                                 std::int64_t batch_size,
                                                 std::int64_t sequence_length,
                                                 std::int64_t vocabulary) {
  std::vector<TokenId> ids = tokenizer.encode(read_text_file(path, kLargestText));
  if (std::ssize(ids) < sequence_length) {
    throw InputError(fmt::format("{}: expected at least {} tokens, one sequence, found {}", path,
                                 sequence_length, ids.size()));
  }
  for (const TokenId id : ids) {
    require(id < vocabulary,
            "{}: the tokenizer's token {} lies outside the model's vocabulary of {}", path, id,
            vocabulary);
  }
  return std::make_unique<Tokens>(std::move(ids), batch_size, sequence_length);
}

std::unique_ptr<TrainingData> read_training_batch(const std::string& path,
                                                  std::int64_t vocabulary) {
  const TokenBatch tokens = read_token_batch(path);
  const SafetensorsFile file(path);
  const std::vector<std::int64_t> labels = read_token_tensor(file, "labels");
  const auto rows = std::ssize(tokens.rows);
  if (std::ssize(labels) != rows * tokens.length) {
    throw InputError(
        fmt::format("{}: tensor 'labels': expected the shape [{}, {}] of input_ids, "
                    "found {}",
                    path, rows, tokens.length, shape_text(file.at("labels").shape)));
  }
  TrainingBatch batch;
  batch.batch = rows;
  batch.ids.assign(labels.size(), 0);
  batch.labels.assign(labels.size(), kIgnoredLabel);
  for (std::int64_t row = 0; row < rows; ++row) {
    const TokenBatch::Row& source = tokens.rows[static_cast<std::size_t>(row)];
    batch.real_tokens.push_back({0, std::ssize(source.ids)});
    for (std::int64_t i = 0; i < std::ssize(source.ids); ++i) {
      const std::int32_t id = source.ids[static_cast<std::size_t>(i)];
      const std::int64_t label =
          labels[static_cast<std::size_t>(row * tokens.length + source.first + i)];
      for (const std::int64_t value : {std::int64_t{id}, label}) {
        if ((value < 0 && value != kIgnoredLabel) || value >= vocabulary) {
          throw InputError(fmt::format("{}: row {}: {} is not a token of a vocabulary of {}", path,
                                       row, value, vocabulary));
        }
      }
      const auto at = static_cast<std::size_t>(row * tokens.length + i);
      batch.ids[at] = id;
      batch.labels[at] = static_cast<std::int32_t>(label);
    }
  }
  return std::make_unique<RepeatedBatch>(std::move(batch), tokens.length);
}

std::unique_ptr<TrainingData> read_training_text(const std::string& path, std::int64_t batch_size,
                                                 std::int64_t sequence_length,
                                                 std::int64_t vocabulary) {
  constexpr std::int64_t kByteValues = 256;
  require(vocabulary >= kByteValues,
          "--data takes the bytes of a text as tokens, which needs a vocabulary of {}, found {}",
          kByteValues, vocabulary);
  return std::make_unique<Bytes>(path, batch_size, sequence_length);
}

}  // namespace portolan
