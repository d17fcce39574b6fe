// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding, on one core. Each argument that is not an option of Google Benchmark is a
// tokenizer or, with --text=FILE, the text to encode (default: what Debian has of common licences).
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "models/tokenizers/tokenizer.hpp"

namespace {

using portolan::TokenId;
using portolan::Tokenizer;

namespace fs = std::filesystem;

constexpr std::size_t kRunLength = 1'000'000;

std::string read_text(const fs::path& path) {
  return portolan::read_text_file(path, std::uint64_t{1} << 30);
}

std::string default_text() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("/usr/share/common-licenses")) {
    if (entry.is_regular_file() && !entry.is_symlink()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) text += read_text(file);
  return text;
}

void report_bytes(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}

/// Anew for each text, with nothing remembered.
void encode_first(benchmark::State& state, const fs::path& path, const std::string& text) {
  for (auto _ : state) {
    state.PauseTiming();
    auto tokenizer = std::make_unique<Tokenizer>(portolan::load_tokenizer(path));
    state.ResumeTiming();
    benchmark::DoNotOptimize(tokenizer->encode(text));
    state.PauseTiming();
    tokenizer.reset();
    state.ResumeTiming();
  }
  report_bytes(state, text.size());
}

void encode_again(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(text));
  report_bytes(state, text.size());
}

void decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<TokenId> ids = tokenizer.encode(text, false);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  report_bytes(state, text.size());
}

void load(benchmark::State& state, const fs::path& path) {
  for (auto _ : state) benchmark::DoNotOptimize(portolan::load_tokenizer(path));
}

void add_benchmarks(const fs::path& path, const std::shared_ptr<const std::string>& text) {
  const auto tokenizer = std::make_shared<const Tokenizer>(portolan::load_tokenizer(path));
  const auto add = [&](std::string_view what, auto&& function) {
    benchmark::RegisterBenchmark(fmt::format("{}/{}", path.string(), what).c_str(), function)
        ->Unit(benchmark::kMillisecond);
  };
  add("load", [=](benchmark::State& state) { load(state, path); });
  add("encode_first", [=](benchmark::State& state) { encode_first(state, path, *text); });
  add("encode_again", [=](benchmark::State& state) { encode_again(state, *tokenizer, *text); });
  add("decode", [=](benchmark::State& state) { decode(state, *tokenizer, *text); });
  // What makes careless merging quadratic.
  for (const auto& [name, character] : {std::pair("letters", 'a'), std::pair("spaces", ' ')}) {
    const auto run = std::make_shared<const std::string>(kRunLength, character);
    add(fmt::format("million_{}", name),
        [=](benchmark::State& state) { encode_again(state, *tokenizer, *run); });
  }
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::shared_ptr<const std::string> text;
  std::vector<fs::path> tokenizers;
  constexpr std::string_view kTextOption = "--text=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with(kTextOption)) {
      text = std::make_shared<const std::string>(read_text(argument.substr(kTextOption.size())));
    } else {
      tokenizers.emplace_back(argument);
    }
  }
  portolan::require(!tokenizers.empty(), "usage: bench_tokenizer [--text=FILE] TOKENIZER...");
  if (text == nullptr) text = std::make_shared<const std::string>(default_text());
  for (const fs::path& tokenizer : tokenizers) add_benchmarks(tokenizer, text);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_tokenizer: {}\n", error.what());
    return 1;
  }
}
