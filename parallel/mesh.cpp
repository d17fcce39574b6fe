// SPDX-License-Identifier: Apache-2.0
#include "parallel/mesh.hpp"

#include "core/error.hpp"

namespace portolan {
namespace {

std::unique_ptr<Communicator> axis(Communicator& world, int extent, int color, int key) {
  // Every rank takes the same branch, so the collective split is called by all or by none.
  if (extent == 1) return make_single_communicator();
  std::unique_ptr<Communicator> part = world.split(color, key);
  part->emulate_link(world.emulated_link());
  return part;
}

}  // namespace

std::string MeshShape::to_string() const {
  std::string text;
  const auto append = [&text](const char* name, int extent) {
    if (extent == 1) return;
    text += fmt::format("{}{} {}", text.empty() ? "" : " x ", name, extent);
  };
  append("data", data);
  append("context", context);
  append("tensor", tensor);
  return text.empty() ? "one rank" : text;
}

MeshCoordinates mesh_coordinates(const MeshShape& shape, int rank) {
  return {.data = rank / (shape.tensor * shape.context),
          .context = rank / shape.tensor % shape.context,
          .tensor = rank % shape.tensor};
}

DeviceMesh::DeviceMesh(Communicator& world, const MeshShape& shape) : world_(world), shape_(shape) {
  require(shape.data > 0 && shape.context > 0 && shape.tensor > 0,
          "the axes of a mesh must be positive, found data {}, context {}, tensor {}", shape.data,
          shape.context, shape.tensor);
  require(shape.ranks() == world.size(), "a mesh of {} ({} ranks) does not fit {} ranks",
          shape.to_string(), shape.ranks(), world.size());
  coordinates_ = mesh_coordinates(shape, world.rank());
  const auto [data, context, tensor] = coordinates_;
  data_ = axis(world, shape.data, context * shape.tensor + tensor, data);
  context_ = axis(world, shape.context, data * shape.tensor + tensor, context);
  tensor_ = axis(world, shape.tensor, data * shape.context + context, tensor);
}

}  // namespace portolan
