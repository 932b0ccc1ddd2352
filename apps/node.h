// The wiring: all services of one process on one data folder.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bus/bus.h"
#include "consumers/balances/service.h"
#include "core/result.h"
#include "eventstore/data_folder.h"
#include "gateway/api.h"
#include "gateway/forwarder.h"
#include "producers/ingest/service.h"
#include "producers/ledger/service.h"
#include "runtime/cluster.h"
#include "runtime/request.h"
#include "runtime/role.h"

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

// What a process does with a data folder. On the embedded transport there is no other process: whatever it is used for, it
// runs everything.
enum class Use {
  kServe,  // shares the work of its roles with all others that have them
  kRun,    // a command that moves the pipeline on: asks those who serve, or does all the work where nobody does
  kRead,   // a command that asks: those who serve, or a copy of its own; it takes no partition from anybody
};

struct NodeOptions {
  std::string data;
  std::string default_chain = "eip155:1";
  TransportOptions transport;
  // On the embedded transport, shards' logs are the topics themselves; false: they are relayed to
  // topics of their own, as they are on brokers.
  bool mount_logs = true;
  Use use = Use::kRun;
  // Of Use::kServe, of "ingest", "ledger" and "balances"; empty: all of them.
  std::set<std::string> roles;
  bool standby = false;  // keep warm copies of the partitions that others own
  std::string instance;  // of this process, among all; empty: the data folder's
};

// Thread-safe once opened.
class Node {
 public:
  // Locks the folder, opens every part and starts it. Errors: kConflict (the folder is in use, other partitions), kInvalid,
  // kUnsupported (newer format), kCorrupt, kExhausted.
  static Result<std::unique_ptr<Node>> Open(const NodeOptions& options);
  ~Node();

  // Waits until every projection reflects all that was published, wherever it runs. `progress` gets events applied
  // and events known; its total grows while deciders are at work. Errors: what stopped a part.
  Status CatchUp(const std::function<void(uint64_t done, uint64_t total)>& progress);
  // What stopped a part for good.
  Status Error() const;
  // The routes, answered from all of this.
  gateway::Api& api() { return *api_; }
  const std::string& admin_token() const { return admin_token_; }
  // Tells the others where this process serves HTTP.
  void SetAddress(const std::string& address);
  eventstore::DataFolder& folder() { return *folder_; }
  bus::Transport& transport() { return *transport_; }
  // Asks by topics; opened when it is first wanted. Errors: those of Requester::Open, kUnavailable when it was stopped.
  Result<runtime::Requester*> requester();
  // Whoever waits for a reply is told that none will come.
  void StopRequests();
  const std::string& instance() const { return instance_; }
  uint32_t partitions() const { return partitions_; }
  // The part of the first partition; null where this process does not have the role.
  ingest::Service* feed(uint32_t partition = 0) { return PartOf(feeds_, partition); }
  ledger::Service* ledger(uint32_t partition = 0) { return PartOf(ledgers_, partition); }
  balances::Service* balances(uint32_t partition = 0) { return PartOf(balances_, partition); }
  bool Owns(std::string_view role, uint32_t partition) const;

 private:
  explicit Node(NodeOptions options) : options_(std::move(options)) {}

  template <typename T>
  static T* PartOf(const std::vector<T*>& parts, uint32_t partition) {
    return partition < parts.size() ? parts[partition] : nullptr;
  }
  Status OpenTransport();
  Status CountPartitions();
  Status OpenCluster();
  Status OpenRoles();
  Status StartRoles();
  gateway::Services Services();
  // A reader on a broker where nobody serves: it answers from a copy of its own.
  bool reads_alone() const { return options_.use == Use::kRead && embedded_ == nullptr && !asks_; }
  template <typename T>
  Result<bool> Reached(const Result<T>& waited, std::string_view role, uint32_t partition);
  const runtime::Role* Find(std::string_view role) const;
  std::vector<runtime::PartStanding> Parts() const;
  std::vector<runtime::InstanceStanding> Instances() const;

  const NodeOptions options_;
  bus::EmbeddedTransport* embedded_ = nullptr;  // transport_, when it is that
  bool relayed_ = false;
  bool asks_ = false;  // others do the work
  uint32_t partitions_ = 1;
  std::chrono::steady_clock::time_point served_;  // of CatchUp: when somebody was last at work
  std::string instance_;
  std::string admin_token_;
  // In the order of the arrows: each uses those before it, and is destroyed before them.
  std::unique_ptr<eventstore::DataFolder> folder_;
  std::unique_ptr<bus::Transport> transport_;
  std::vector<std::unique_ptr<runtime::Role>> roles_;
  std::vector<ingest::Service*> feeds_;  // the roles' parts
  std::vector<ledger::Service*> ledgers_;
  std::vector<balances::Service*> balances_;
  std::unique_ptr<runtime::Cluster> cluster_;
  std::mutex requester_mutex_;
  std::unique_ptr<runtime::Requester> requester_;  // guarded by requester_mutex_
  bool requests_stopped_ = false;                  // guarded by requester_mutex_
  std::unique_ptr<gateway::Forwarder> forwarder_;
  std::unique_ptr<gateway::Api> api_;
  std::unique_ptr<gateway::ForwardServer> forward_server_;
};

}  // namespace leat::apps
