// The wiring: all services of one process on one data folder.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "bus/bus.h"
#include "consumers/balances/service.h"
#include "core/result.h"
#include "eventstore/data_folder.h"
#include "gateway/api.h"
#include "producers/ingest/chain_feed.h"
#include "producers/ledger/service.h"
#include "runtime/relay.h"
#include "runtime/request.h"
#include "runtime/shard.h"

namespace leat::bus {
class EmbeddedTransport;
}

namespace leat::apps {

// How events travel, as the user sets it.
struct TransportOptions {
  std::string name;  // "embedded", "kafka" or "rabbitmq"; empty: what the data folder was made
                     // with, else embedded
  // Of the transports, as CheckSetting knows them: "kafka.<librdkafka property>", "rabbitmq.host",
  // "topics.prefix", ... Secrets may be among them.
  std::map<std::string, std::string> settings;
};
// Errors: kInvalid for a setting that no transport has.
Status CheckSetting(const std::string& name);

struct NodeOptions {
  std::string data;
  std::string default_chain = "eip155:1";
  TransportOptions transport;
  // On the embedded transport, shards' logs are the topics themselves; false: they are relayed to
  // topics of their own, as they are on brokers.
  bool mount_logs = true;
  // On a broker, only reads: claims no partition, so that a question takes nothing away from whoever owns them. The balances
  // are kept up to date all the same.
  bool observes = false;
  std::string instance;  // of this process, among all; empty: the data folder's
};

// Thread-safe once opened.
class Node {
 public:
  // Locks the folder, opens every part and starts it. Errors: kConflict (the folder is in use),
  // kUnsupported (newer format), kCorrupt, kExhausted.
  static Result<std::unique_ptr<Node>> Open(const NodeOptions& options);
  ~Node();

  // Waits until every projection reflects all that was published. `progress` gets events applied
  // and events known; its total grows while deciders are at work. Errors: what stopped a part.
  Status CatchUp(const std::function<void(uint64_t done, uint64_t total)>& progress);
  // For the routes; without an admin token.
  gateway::Services services();
  eventstore::DataFolder& folder() { return *folder_; }
  ingest::ChainFeed& feed() { return *feed_; }
  balances::Service& balances() { return *balances_; }
  ledger::Service& ledger() { return *ledger_; }
  bus::Transport& transport() { return *transport_; }
  // Asks by topics; opened when it is first wanted. Errors: those of Requester::Open and DataFolder::Instance.
  Result<runtime::Requester*> requester();
  // Whoever waits for a reply is told that none will come.
  void StopRequests();

 private:
  explicit Node(NodeOptions options) : options_(std::move(options)) {}

  Status OpenTransport();
  Status OpenFeed();
  // Everything that was submitted to the feed can be read from its topic.
  bool WaitBlocksPublished(std::chrono::milliseconds timeout) const;

  const NodeOptions options_;
  bus::EmbeddedTransport* embedded_ = nullptr;  // transport_, when it is that
  bool relayed_ = false;
  // In the order of the arrows: each uses those before it, and is destroyed before them.
  std::unique_ptr<eventstore::DataFolder> folder_;
  std::unique_ptr<bus::Transport> transport_;
  std::unique_ptr<runtime::Shard> ingest_shard_;
  std::unique_ptr<ingest::ChainFeed> feed_;
  std::unique_ptr<runtime::Relay> feed_relay_;
  std::unique_ptr<ledger::Service> ledger_;
  std::unique_ptr<balances::Service> balances_;
  std::mutex requester_mutex_;
  std::unique_ptr<runtime::Requester> requester_;  // guarded by requester_mutex_
  bool requests_stopped_ = false;                  // guarded by requester_mutex_
};

}  // namespace leat::apps
