// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.hpp"

namespace portolan {

/// How the ranks are arranged: data x context x tensor, tensor fastest, so that tensor-parallel
/// peers, which talk most, are neighbours on a node.
struct MeshShape {
  int data = 1;
  int context = 1;
  int tensor = 1;

  [[nodiscard]] int ranks() const noexcept { return data * context * tensor; }
  /// "context 2 x tensor 4"; axes of extent 1 are left out.
  [[nodiscard]] std::string to_string() const;
};

/// Coordinates of a rank on the axes of a mesh.
struct MeshCoordinates {
  int data = 0;
  int context = 0;
  int tensor = 0;
};

[[nodiscard]] MeshCoordinates mesh_coordinates(const MeshShape& shape, int rank);

/// A mesh over the ranks of a communicator with one communicator per axis. Making it is collective.
class DeviceMesh {
 public:
  /// Throws UsageError unless the shape has as many ranks as `world`, which must outlive the mesh.
  DeviceMesh(Communicator& world, const MeshShape& shape);

  [[nodiscard]] const MeshShape& shape() const noexcept { return shape_; }
  [[nodiscard]] const MeshCoordinates& coordinates() const noexcept { return coordinates_; }
  [[nodiscard]] Communicator& world() const noexcept { return world_; }
  /// Ranks that share everything but the named coordinate.
  [[nodiscard]] Communicator& data() const noexcept { return *data_; }
  [[nodiscard]] Communicator& context() const noexcept { return *context_; }
  [[nodiscard]] Communicator& tensor() const noexcept { return *tensor_; }

 private:
  Communicator& world_;
  MeshShape shape_;
  MeshCoordinates coordinates_;
  std::unique_ptr<Communicator> data_;
  std::unique_ptr<Communicator> context_;
  std::unique_ptr<Communicator> tensor_;
};

}  // namespace portolan
