// SPDX-License-Identifier: Apache-2.0
#include "apps/training_data.hpp"

#include <algorithm>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "apps/token_batch.hpp"
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

/// Consecutive tokens of a text, wrapping round at its end.
class Text final : public TrainingData {
 public:
  /// Gives the tokens from `begin` on, which lie within the text.
  using Reader = std::function<void(std::int64_t begin, std::span<std::int32_t> tokens)>;

  Text(std::int64_t size, Reader read, std::int64_t batch_size, std::int64_t length)
      : size_(size), read_(std::move(read)), batch_size_(batch_size), length_(length) {}

  [[nodiscard]] TrainingBatch batch(std::int64_t step) const override {
    TrainingBatch batch;
    batch.batch = batch_size_;
    batch.ids.resize(static_cast<std::size_t>(batch_size_ * length_));
    std::span<std::int32_t> missing(batch.ids);
    std::int64_t at = step * std::ssize(missing) % size_;
    while (!missing.empty()) {
      const std::int64_t count = std::min(std::ssize(missing), size_ - at);
      read_(at, missing.first(static_cast<std::size_t>(count)));
      missing = missing.subspan(static_cast<std::size_t>(count));
      at = (at + count) % size_;
    }
    batch.labels = batch.ids;
    return batch;
  }
  [[nodiscard]] std::int64_t sequence_length() const override { return length_; }

 private:
  std::int64_t size_;
  Reader read_;
  std::int64_t batch_size_;
  std::int64_t length_;
};

void require_a_sequence(const std::string& path, std::string_view unit, std::int64_t size,
                        std::int64_t sequence_length) {
  if (size >= sequence_length) return;
  throw InputError(fmt::format("{}: expected at least {} {}, one sequence, found {}", path,
                               sequence_length, unit, size));
}

}  // namespace

std::unique_ptr<TrainingData> read_training_text(const std::string& path,
                                                 const Tokenizer& tokenizer,
                                                 std::int64_t batch_size,
                                                 std::int64_t sequence_length,
                                                 std::int64_t vocabulary) {
  std::vector<TokenId> ids = tokenizer.encode(read_text_file(path, kLargestText));
  require_a_sequence(path, "tokens", std::ssize(ids), sequence_length);
  require_in_vocabulary(ids, vocabulary, path);
  const std::int64_t size = std::ssize(ids);
  auto read = [ids = std::move(ids)](std::int64_t begin, std::span<std::int32_t> tokens) {
    std::copy_n(ids.begin() + begin, tokens.size(), tokens.begin());
  };
  return std::make_unique<Text>(size, std::move(read), batch_size, sequence_length);
}

std::unique_ptr<TrainingData> read_training_batch(const std::string& path,
                                                  std::int64_t vocabulary) {
  const TokenBatch tokens = read_token_batch(path);
  const SafetensorsFile file(path);
  const std::vector<std::int64_t> labels = read_token_tensor(file, "labels");
  const auto rows = std::ssize(tokens.rows);
  const std::vector<std::int64_t>& found = file.at("labels").shape;
  if (found != std::vector<std::int64_t>{rows, tokens.length}) {
    throw InputError(
        fmt::format("{}: tensor 'labels': expected the shape [{}, {}] of input_ids, found {}", path,
                    rows, tokens.length, shape_text(found)));
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
  // Read as they are needed: a file of bytes may be larger than memory.
  const auto file = std::make_shared<const InputFile>(path);
  const auto size = static_cast<std::int64_t>(file->size());
  require_a_sequence(file->name(), "bytes", size, sequence_length);
  const auto read = [file](std::int64_t begin, std::span<std::int32_t> tokens) {
    std::vector<std::uint8_t> bytes(tokens.size());
    file->read(static_cast<std::uint64_t>(begin), std::as_writable_bytes(std::span(bytes)));
    std::ranges::copy(bytes, tokens.begin());
  };
  return std::make_unique<Text>(size, read, batch_size, sequence_length);
}

}  // namespace portolan
