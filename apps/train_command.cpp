// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.hpp"
#include "apps/train.hpp"

namespace portolan {

void add_train_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand(
      "train", "Train a model on text or on one batch; prints a JSON object per step");
  const auto request = std::make_shared<TrainRequest>();
  TrainRequest& r = *request;
  CLI::Option* model =
      command->add_option("--model", r.model, "Folder with config.json and safetensors")
          ->type_name("DIR");
  command->add_option("--preset", r.preset, "Built-in config, random initial weights")
      ->type_name("NAME")
      ->excludes(model);
  command->add_option("--layers", r.layers, "Layers of the preset")
      ->type_name("N")
      ->excludes(model);
  CLI::Option* data =
      command->add_option("--data", r.data, "Text; without a tokenizer its bytes are the tokens")
          ->type_name("FILE");
  command
      ->add_option("--batch", r.batch,
                   "input_ids, labels and maybe attention_mask [batch, seq]: one batch, repeated")
      ->type_name("FILE")
      ->excludes(data);
  command->add_option("--batch-size", r.batch_size, "Sequences per step, of all ranks together")
      ->type_name("B");
  command->add_option("--seq-len", r.sequence_length, "Tokens per sequence")->type_name("S");
  command->add_option("--steps", r.steps, "Updates")->required()->type_name("N");
  command->add_option("--optimizer", r.optimizer, "adamw or sgd")->type_name("NAME");
  command->add_option("--lr", r.learning_rate, "Peak learning rate")->type_name("X");
  command->add_option("--betas", r.betas, "AdamW's decay of the moments")
      ->delimiter(',')
      ->expected(2)
      ->type_name("B1,B2");
  command->add_option("--eps", r.epsilon, "AdamW's epsilon")->type_name("X");
  command->add_option("--momentum", r.momentum, "SGD's momentum")->type_name("X");
  command->add_option("--weight-decay", r.weight_decay, "Of matrices")->type_name("X");
  command->add_flag("--decay-all", r.decay_all, "Decay norms and biases too");
  command->add_option("--clip-norm", r.clip_norm, "Largest global gradient norm")->type_name("X");
  command->add_option("--schedule", r.schedule, "constant, linear or cosine")->type_name("NAME");
  command->add_option("--warmup", r.warmup, "Steps of linear warm-up")->type_name("K");
  command->add_option("--dropout", r.dropout, "Probability for attention weights")->type_name("P");
  command->add_option("--recompute", r.recompute, "none, selective or full")->type_name("WHAT");
  command
      ->add_option("--save-gradients", r.save_gradients,
                   "Gradients of the first step before clipping, f32, whole, checkpoint names")
      ->type_name("FILE");
  command->add_option("--out", r.out, "Folder for the trained model, which transformers loads")
      ->type_name("DIR");
  command->get_option("--batch-size")->capture_default_str();
  add_model_options(*command, r.common);
  command->footer(
      "Examples:\n"
      "  portolan train --preset tiny --data book.txt --steps 200 --out trained\n"
      "  mpirun -n 2 portolan train --model DIR --batch batch.safetensors --steps 10 --parallel "
      "sp");
  command->callback([request] { run_train(*request); });
}

}  // namespace portolan
