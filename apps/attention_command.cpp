// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_command.hpp"

#include <CLI/CLI.hpp>
#include <limits>
#include <memory>

#include "apps/commands.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();

AttentionRequest::BlockSize parse_block(const std::string& text) {
  const std::size_t comma = text.find(',');
  require(comma != std::string::npos, "--block: '{}' is not two numbers BQ,BK", printable(text));
  return {parse_integer("--block", text.substr(0, comma), 1, kMostTokens),
          parse_integer("--block", text.substr(comma + 1), 1, kMostTokens)};
}

void add_method_options(CLI::App& command, AttentionRequest& request) {
  add_text_option(
      command, "--method",
      "auto, standard, memory-efficient, flash, window or block-sparse (default auto: the device's "
      "first that serves the problem)",
      "METHOD", [&request](const std::string& text) {
        require_one_of("--method", text,
                       {"auto", "standard", "memory-efficient", "flash", "window", "block-sparse"});
        if (text != "auto") request.method = attention_method_from_name(text);
      });
  add_dtype_option(command,
                   "f32, bf16 or f16: what q, k, v and do are rounded to (default: as stored)",
                   request.common.dtype);
  command.add_flag("--backward", request.backward, "Also dq, dk, dv from do");
}

void add_mask_options(CLI::App& command, AttentionRequest& request) {
  command.add_flag("--causal", request.causal,
                   "A query sees no later key; queries end where the keys end");
  add_text_option(command, "--window",
                  "A query sees itself and the W - 1 keys before it; implies --causal", "W",
                  [&request](const std::string& text) {
                    request.window = parse_integer("--window", text, 1, kMostTokens);
                  });
  add_text_option(command, "--block", "Rows of q and of k in a block of block_map", "BQ,BK",
                  [&request](const std::string& text) { request.block = parse_block(text); });
  add_text_option(command, "--scale", "What q.k is multiplied by (default 1 / sqrt(head_dim))", "S",
                  [&request](const std::string& text) {
                    request.scale = parse_positive_number("--scale", text);
                  });
  add_text_option(command, "--layout",
                  "bhsd [batch, heads, tokens, head_dim] or packed [tokens, heads, head_dim] with "
                  "cu_seqlens_q, cu_seqlens_k (default bhsd)",
                  "LAYOUT", [&request](const std::string& text) {
                    require_one_of("--layout", text, {"bhsd", "packed"});
                    if (text == "packed") request.layout = AttentionFileLayout::packed;
                  });
}

}  // namespace

void add_attention_command(CLI::App& application) {
  CLI::App* command =
      application.add_subcommand("attention", "Run an attention kernel on given tensors");
  const auto request = std::make_shared<AttentionRequest>();
  command
      ->add_option("--input", request->input,
                   "File with q, k, v and maybe do, cu_seqlens_q, cu_seqlens_k, block_map")
      ->required()
      ->type_name("FILE");
  command->add_option("--out", request->out, "Where to write o, lse and maybe dq, dk, dv, all f32")
      ->required()
      ->type_name("FILE");
  add_method_options(*command, *request);
  add_mask_options(*command, *request);
  add_run_options(*command, request->common);
  add_output_options(*command, request->common);
  command->footer(
      "A row that sees no key: o 0, lse -infinity, gradients 0.\n"
      "Examples:\n"
      "  portolan attention --input qkv.safetensors --causal --out o.safetensors\n"
      "  portolan attention --input qkvdo.safetensors --method window --window 512 --backward "
      "--out o.safetensors\n"
      "  portolan attention --input packed.safetensors --layout packed --causal --out "
      "o.safetensors");
  command->callback([request] { run_attention(*request); });
}

}  // namespace portolan
