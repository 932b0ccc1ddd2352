// The wiring: all services of one process on one data folder.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "bus/embedded/embedded_transport.h"
#include "consumers/balances/service.h"
#include "core/result.h"
#include "eventstore/data_folder.h"
#include "gateway/api.h"
#include "producers/ingest/chain_feed.h"
#include "producers/ledger/service.h"
#include "runtime/shard.h"

namespace leat::apps {

struct NodeOptions {
  std::string data;
  std::string default_chain = "eip155:1";
  // Shards' logs are the topics themselves; false: they are relayed to topics of their own.
  bool mount_logs = true;
};

// Thread-safe once opened.
class Node {
 public:
  // Locks the folder, opens every part and starts it. Errors: kConflict (the folder is in use), kUnsupported (newer
  // format), kCorrupt, kExhausted.
  static Result<std::unique_ptr<Node>> Open(const NodeOptions& options);
  ~Node();

  // Waits until every projection reflects all that was published. `progress` gets events applied and events known; its
  // total grows while deciders are at work. Errors: what stopped a part.
  Status CatchUp(const std::function<void(uint64_t done, uint64_t total)>& progress);
  // For the routes; without an admin token.
  gateway::Services services();
  eventstore::DataFolder& folder() { return *folder_; }
  ingest::ChainFeed& feed() { return *feed_; }
  balances::Service& balances() { return *balances_; }
  ledger::Service& ledger() { return *ledger_; }
  bus::EmbeddedTransport& transport() { return *transport_; }

 private:
  explicit Node(NodeOptions options) : options_(std::move(options)) {}

  const NodeOptions options_;
  // In the order of the arrows: each uses those before it, and is destroyed before them.
  std::unique_ptr<eventstore::DataFolder> folder_;
  std::unique_ptr<bus::EmbeddedTransport> transport_;
  std::unique_ptr<runtime::Shard> ingest_shard_;
  std::unique_ptr<ingest::ChainFeed> feed_;
  std::unique_ptr<ledger::Service> ledger_;
  std::unique_ptr<balances::Service> balances_;
};

}  // namespace leat::apps
