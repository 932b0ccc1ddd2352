// What a command talks to: the server that runs on its data folder, or the data folder itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "apps/node.h"
#include "core/result.h"

namespace leat::chain::v1 {
class BlockObserved;
}

namespace leat::apps {

// Used by one thread.
class Backend {
 public:
  virtual ~Backend() = default;
  // The body of a successful answer; a problem document becomes the error it describes.
  virtual Result<std::string> Call(std::string_view method, std::string_view target,
                                   std::string_view body = {}) = 0;
  // The same, piece by piece, without blank lines; false from `on_chunk` ends it.
  virtual Status Stream(std::string_view target,
                        const std::function<bool(std::string_view)>& on_chunk) = 0;
  virtual Result<ingest::FeedReport> SubmitBlocks(
      const std::vector<chain::v1::BlockObserved>& blocks) = 0;
  virtual Result<bool> KnowsBlock(std::string_view chain, const Hash& hash) = 0;
  // Waits until the balances reflect all that was published.
  virtual Status CatchUp(const std::function<void(uint64_t done, uint64_t total)>& progress) = 0;
  // Null with a server.
  virtual Node* node() = 0;
};

enum class Folder { kMustExist, kMayBeNew };
// Without a server, on a broker: whether this process runs the pipeline, or reads what others wrote.
enum class Pipeline { kRuns, kIsRead };

// Errors: kNotFound (no data folder), kConflict (in use by a process that is not a server), and those of Node::Open.
Result<std::unique_ptr<Backend>> OpenBackend(const NodeOptions& options, Folder folder,
                                             Pipeline pipeline);

}  // namespace leat::apps
