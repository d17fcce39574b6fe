// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "models/tokenizers/tokenizer.hpp"
#include "training/trainer.hpp"

namespace portolan {

/// Bytes of a text that is made tokens of as a whole.
inline constexpr std::uint64_t kLargestText = std::uint64_t{1} << 30;

/// Where the batches of a run come from: a pure function of the step.
class TrainingData {
 public:
  virtual ~TrainingData() = default;
  [[nodiscard]] virtual TrainingBatch batch(std::int64_t step) const = 0;
  [[nodiscard]] virtual std::int64_t sequence_length() const = 0;
};

/// One batch for every step: `input_ids`, `labels` and maybe `attention_mask` [batch, seq], I64 or
/// I32. Labels are not shifted; -100 is not scored, nor is padding. Rows that are padded on the
/// left are moved to the left, which changes nothing that is scored. Throws InputError naming file
/// and tensor.
[[nodiscard]] std::unique_ptr<TrainingData> read_training_batch(const std::string& path,
                                                                std::int64_t vocabulary);

/// The bytes of a text as tokens. Sequence i of the run (step * batch_size + row) is the
/// `sequence_length` bytes from i * sequence_length on, wrapping round at the end of the text.
/// Throws InputError if the text is shorter than a sequence, or the vocabulary than 256.
[[nodiscard]] std::unique_ptr<TrainingData> read_training_text(const std::string& path,
                                                               std::int64_t batch_size,
                                                               std::int64_t sequence_length,
                                                               std::int64_t vocabulary);

/// The same over the tokens of a text, with those that the tokenizer puts round it. Throws
/// InputError if they are fewer than a sequence, UsageError for one outside the vocabulary.
[[nodiscard]] std::unique_ptr<TrainingData> read_training_text(const std::string& path,
                                                               const Tokenizer& tokenizer,
                                                               std::int64_t batch_size,
                                                               std::int64_t sequence_length,
                                                               std::int64_t vocabulary);

}  // namespace portolan
