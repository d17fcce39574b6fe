// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/sentencepiece_model.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/piece_trie.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

/// One field of a message.
struct Field {
  enum class Wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
  std::uint32_t number;
  Wire wire;
  std::uint64_t value;     ///< of a varint; the bits of fixed32 and fixed64
  std::string_view bytes;  ///< of a string or an inner message
};

/// Walks over the fields of one message (protocol buffers' wire format).
class MessageReader {
 public:
  MessageReader(std::string_view message, std::size_t offset, const std::string& source)
      : message_(message), offset_(offset), source_(source) {}

  [[nodiscard]] bool at_end() const { return position_ == message_.size(); }

  Field next() {
    const std::uint64_t key = varint();
    Field field{static_cast<std::uint32_t>(key >> 3), static_cast<Field::Wire>(key & 7), 0, {}};
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) fail("a field has an impossible number");
    switch (field.wire) {
      case Field::Wire::varint:
        field.value = varint();
        return field;
      case Field::Wire::fixed64:
        field.value = fixed(8);
        return field;
      case Field::Wire::fixed32:
        field.value = fixed(4);
        return field;
      case Field::Wire::bytes: {
        const std::uint64_t length = varint();
        if (length > message_.size() - position_) {
          fail(fmt::format("field {} has {} bytes, {} are left", field.number, length,
                           message_.size() - position_));
        }
        field.bytes = message_.substr(position_, static_cast<std::size_t>(length));
        position_ += static_cast<std::size_t>(length);
        return field;
      }
    }
    fail(fmt::format("wire type {} does not exist", key & 7));
  }

  /// A reader of the inner message that `field` holds.
  [[nodiscard]] MessageReader inner(const Field& field) const {
    const auto start = static_cast<std::size_t>(field.bytes.data() - message_.data());
    return {field.bytes, offset_ + start, source_};
  }

  void require_wire(const Field& field, Field::Wire wire) const {
    if (field.wire != wire) fail(fmt::format("field {} has another type", field.number));
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw InputError(fmt::format("{}: not a sound SentencePiece model: {} (at byte {})", source_,
                                 what, offset_ + position_));
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint64_t byte = fixed(1);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number does not end");
  }

  std::uint64_t fixed(std::size_t size) {
    if (size > message_.size() - position_) fail("it ends in the middle of a field");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(message_[position_ + i]))
               << (8 * i);
    }
    position_ += size;
    return value;
  }

  std::string_view message_;
  std::size_t offset_;  ///< of the message in the file
  std::string source_;
  std::size_t position_ = 0;
};

using Piece = SentencePieceModel::Piece;
using PieceType = SentencePieceModel::PieceType;

Piece read_piece(MessageReader reader) {
  Piece piece;
  while (!reader.at_end()) {
    const Field field = reader.next();
    if (field.number == 1) {
      reader.require_wire(field, Field::Wire::bytes);
      piece.text = field.bytes;
    } else if (field.number == 2) {
      reader.require_wire(field, Field::Wire::fixed32);
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    } else if (field.number == 3) {
      reader.require_wire(field, Field::Wire::varint);
      if (field.value < 1 || field.value > 6) reader.fail("a piece has an unknown type");
      piece.type = static_cast<PieceType>(field.value);
    }
  }
  if (piece.text.empty() || piece.text.size() > PieceTrie::kLongestPiece) {
    reader.fail(fmt::format("a piece has {} bytes, expected 1 to {}", piece.text.size(),
                            PieceTrie::kLongestPiece));
  }
  if (find_invalid_utf8(piece.text)) reader.fail("a piece is not UTF-8");
  if (!std::isfinite(piece.score)) reader.fail("a piece's score is not a number");
  return piece;
}

/// Members that are strings or booleans, by their numbers.
struct StringMember {
  std::uint32_t number;
  std::string SentencePieceModel::*member;
};
struct BooleanMember {
  std::uint32_t number;
  bool SentencePieceModel::*member;
};

void read_trainer(MessageReader reader, SentencePieceModel& model) {
  constexpr std::array<StringMember, 4> kStrings{{{44, &SentencePieceModel::unknown_surface},
                                                  {46, &SentencePieceModel::bos_piece},
                                                  {47, &SentencePieceModel::eos_piece},
                                                  {48, &SentencePieceModel::pad_piece}}};
  constexpr std::array<BooleanMember, 2> kBooleans{
      {{24, &SentencePieceModel::space_after_word}, {35, &SentencePieceModel::byte_fallback}}};
  while (!reader.at_end()) {
    const Field field = reader.next();
    if (field.number == 3) {
      reader.require_wire(field, Field::Wire::varint);
      if (field.value < 1 || field.value > 4) reader.fail("the model has an unknown type");
      model.type = static_cast<SentencePieceModel::ModelType>(field.value);
    }
    for (const auto& [number, member] : kStrings) {
      if (field.number != number) continue;
      reader.require_wire(field, Field::Wire::bytes);
      model.*member = field.bytes;
    }
    for (const auto& [number, member] : kBooleans) {
      if (field.number != number) continue;
      reader.require_wire(field, Field::Wire::varint);
      model.*member = field.value != 0;
    }
  }
  if (find_invalid_utf8(model.unknown_surface)) {
    reader.fail("what the unknown piece is decoded to is not UTF-8");
  }
}

void read_normalizer_spec(MessageReader reader, SentencePieceModel& model) {
  constexpr std::array<BooleanMember, 3> kBooleans{
      {{3, &SentencePieceModel::add_dummy_prefix},
       {4, &SentencePieceModel::remove_extra_whitespaces},
       {5, &SentencePieceModel::escape_whitespaces}}};
  while (!reader.at_end()) {
    const Field field = reader.next();
    if (field.number == 2) {
      reader.require_wire(field, Field::Wire::bytes);
      model.character_map = field.bytes;
    }
    for (const auto& [number, member] : kBooleans) {
      if (field.number != number) continue;
      reader.require_wire(field, Field::Wire::varint);
      model.*member = field.value != 0;
    }
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& source) {
  MessageReader reader(bytes, 0, source);
  SentencePieceModel model;
  while (!reader.at_end()) {
    const Field field = reader.next();
    if (field.number == 4 || field.number > 5) continue;
    reader.require_wire(field, Field::Wire::bytes);
    if (field.number == 1) model.pieces.push_back(read_piece(reader.inner(field)));
    if (field.number == 2) read_trainer(reader.inner(field), model);
    if (field.number == 3) read_normalizer_spec(reader.inner(field), model);
    if (field.number == 5) {
      SentencePieceModel denormalizer;
      read_normalizer_spec(reader.inner(field), denormalizer);
      model.changes_decoded_text = !denormalizer.character_map.empty();
    }
  }
  std::unordered_set<std::string_view> texts;
  std::size_t unknown = 0;
  for (const Piece& piece : model.pieces) {
    if (!texts.insert(piece.text).second) {
      reader.fail(fmt::format("piece '{}' appears twice", printable(piece.text)));
    }
    if (piece.type == PieceType::unknown) ++unknown;
  }
  if (unknown != 1) {
    reader.fail(fmt::format("expected one piece for what is unknown, found {} among {} pieces",
                            unknown, model.pieces.size()));
  }
  return model;
}

}  // namespace portolan
