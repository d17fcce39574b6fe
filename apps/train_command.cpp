// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "apps/commands.hpp"
#include "apps/train.hpp"

namespace portolan {
namespace {

/// "Peak learning rate (default 0.001)".
template <typename Value>
void add_number(CLI::App& command, const char* name, const char* value_name, const char* help,
                Value& value) {
  command.add_option(name, value, fmt::format("{} (default {})", help, value))
      ->type_name(value_name);
}

void add_data_options(CLI::App& command, TrainRequest& request) {
  command
      .add_option("--model", request.model,
                  "Folder of the model, of Hugging Face's layout or of Meta's")
      ->type_name("DIR");
  command.add_option("--preset", request.preset, "Built-in config, random initial weights")
      ->type_name("NAME");
  command.add_option("--layers", request.layers, "Layers of the preset")->type_name("N");
  command.add_option("--data", request.data, "Text; without a tokenizer its bytes are the tokens")
      ->type_name("FILE");
  add_number(command, "--batch-size", "B", "Of --data: sequences per step, of all ranks together",
             request.batch_size);
  add_number(command, "--seq-len", "S", "Of --data: tokens per sequence", request.sequence_length);
  command
      .add_option("--batch", request.batch,
                  "Instead: input_ids, labels and maybe attention_mask [batch, seq], one batch for "
                  "every step")
      ->type_name("FILE");
  command.add_option("--steps", request.steps, "Updates")->required()->type_name("N");
}

void add_optimizer_options(CLI::App& command, TrainRequest& request) {
  command.add_option("--optimizer", request.optimizer, "adamw or sgd (default adamw)")
      ->type_name("NAME");
  add_number(command, "--lr", "X", "Peak learning rate", request.learning_rate);
  command
      .add_option("--betas", request.betas,
                  fmt::format("AdamW's decay of the moments (default {},{})", request.betas[0],
                              request.betas[1]))
      ->delimiter(',')
      ->expected(2)
      ->type_name("B1,B2");
  add_number(command, "--eps", "X", "AdamW's epsilon", request.epsilon);
  add_number(command, "--momentum", "X", "SGD's momentum", request.momentum);
  add_number(command, "--weight-decay", "X", "Of matrices", request.weight_decay);
  command.add_flag("--decay-all", request.decay_all, "Decay norms and biases too");
  command
      .add_option("--clip-norm", request.clip_norm,
                  "Largest norm of all gradients together (default: not limited)")
      ->type_name("X");
  command
      .add_option("--schedule", request.schedule,
                  "Of the learning rate: constant, linear or cosine (default constant)")
      ->type_name("NAME");
  add_number(command, "--warmup", "K", "Steps of linear warm-up", request.warmup);
  add_number(command, "--dropout", "P", "Probability for attention weights", request.dropout);
  command
      .add_option("--recompute", request.recompute,
                  "In the backward pass: none, selective or full (default none)")
      ->type_name("WHAT");
}

/// Options that the others leave without effect.
void refuse_idle_options(const CLI::App& command, const TrainRequest& request) {
  if (request.model) refuse_options(command, {"--layers"}, "goes with --preset, not with --model");
  if (request.batch) {
    refuse_options(command, {"--batch-size", "--seq-len"},
                   "goes with --data: the file of --batch has its own");
  }
  if (request.optimizer == "sgd") {
    refuse_options(command, {"--betas", "--eps"}, "goes with --optimizer adamw");
  } else {
    refuse_options(command, {"--momentum"}, "goes with --optimizer sgd");
  }
}

}  // namespace

void add_train_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand(
      "train", "Train a model on text or on one batch; prints a JSON object per step");
  const auto request = std::make_shared<TrainRequest>();
  add_data_options(*command, *request);
  add_optimizer_options(*command, *request);
  command
      ->add_option("--save-gradients", request->save_gradients,
                   "Gradients of the first step before clipping, f32, whole, checkpoint names")
      ->type_name("FILE");
  command
      ->add_option("--out", request->out, "Folder for the trained model, which transformers loads")
      ->type_name("DIR");
  add_model_options(*command, request->common);
  command->get_option("--json")->description("Changes nothing: stdout is JSON Lines in any case");
  command->footer(
      "Examples:\n"
      "  portolan train --preset llama-bytes --data book.txt --steps 200 --out trained\n"
      "  mpirun -n 2 portolan train --model DIR --batch batch.safetensors --steps 10 --parallel "
      "sp");
  command->callback([request, command] {
    refuse_idle_options(*command, *request);
    run_train(*request);
  });
}

}  // namespace portolan
