#include "apps/node.h"

#include <openssl/rand.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "bus/embedded/embedded_transport.h"
#include "bus/kafka/kafka_transport.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/bytes.h"
#include "core/clock.h"

namespace leat::apps {
namespace {

// Until a command that waits for others gives up because nobody does the work.
constexpr auto kUnservedMax = std::chrono::seconds(30);
constexpr std::string_view kEmbedded = "embedded";
constexpr std::string_view kKafka = "kafka";
constexpr std::string_view kRabbitMq = "rabbitmq";
constexpr std::string_view kKafkaPrefix = "kafka.";
constexpr const char* kPartitions = "topics.partitions";
constexpr uint32_t kPartitionsMax = 1024;
constexpr const char* kTopicPrefix = "topics.prefix";
constexpr const char* kReplication = "topics.replication";
constexpr const char* kRetention = "topics.retention_ms";

// A data folder belongs to one transport: positions of another one mean nothing to its shards.
Result<std::string> TransportOf(const eventstore::DataFolder& folder, const std::string& wanted) {
  const std::string path = folder.Sub("transport");
  std::string known;
  std::ifstream(path) >> known;
  // Folders from before there were others have no such file.
  const bool used = std::filesystem::exists(folder.Sub("shards"));
  if (known.empty() && used) known = kEmbedded;
  if (!known.empty() && !wanted.empty() && known != wanted) {
    return Fail(ErrorClass::kConflict,
                "this data folder is of transport " + known + ", not " + wanted,
                "use another data folder for another transport");
  }
  const std::string name = !known.empty()   ? known
                           : wanted.empty() ? std::string(kEmbedded)
                                            : wanted;
  if (name != kEmbedded && name != kKafka && name != kRabbitMq) {
    return Invalid("transport: there is no \"" + name.substr(0, 32) + "\"",
                   "use embedded, kafka or rabbitmq");
  }
  if (std::filesystem::exists(path)) return name;
  const std::string temporary = path + ".tmp";
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << name << "\n";
    out.flush();
    if (!out) return Fail(ErrorClass::kExhausted, "writing " + temporary, "free some disk space");
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) return Fail(ErrorClass::kInternal, path + ": " + error.message());
  return name;
}

Result<bus::KafkaOptions> KafkaOptionsOf(const std::map<std::string, std::string>& settings) {
  bus::KafkaOptions options;
  options.properties["bootstrap.servers"] = "127.0.0.1:9092";
  for (const auto& [name, value] : settings) {
    if (name.starts_with(kKafkaPrefix)) {
      options.properties[name.substr(kKafkaPrefix.size())] = value;
    } else if (name == kTopicPrefix) {
      LEAT_TRY(events::CheckTopicName(value));
      options.topic_prefix = value;
    } else if (name == kReplication || name == kRetention) {
      const bool for_ever = name == kRetention && value == "-1";
      auto number = core::ParseUint64(value);
      const uint64_t most = name == kRetention ? INT64_MAX : INT16_MAX;  // as Kafka has them
      if (!for_ever && (!number || *number == 0 || *number > most)) {
        return Invalid(name + ": \"" + value.substr(0, 32) + "\" is out of range",
                       "write a number from 1 to " + std::to_string(most));
      }
      if (name == kReplication) options.replication = static_cast<int>(*number);
      if (name == kRetention && !for_ever) options.retention_ms = static_cast<int64_t>(*number);
    }
  }
  return options;
}

// The settings of RabbitMQ that are texts.
const std::pair<std::string_view, std::string bus::RabbitMqOptions::*> kRabbitMqTexts[] = {
    {"rabbitmq.host", &bus::RabbitMqOptions::host},
    {"rabbitmq.vhost", &bus::RabbitMqOptions::vhost},
    {"rabbitmq.username", &bus::RabbitMqOptions::username},
    {"rabbitmq.password", &bus::RabbitMqOptions::password},
    {"rabbitmq.tls_ca_file", &bus::RabbitMqOptions::tls_ca_file},
    {"rabbitmq.tls_certificate_file", &bus::RabbitMqOptions::tls_certificate_file},
    {"rabbitmq.tls_key_file", &bus::RabbitMqOptions::tls_key_file},
    {kTopicPrefix,
     &bus::RabbitMqOptions::exchange},  // the exchange stands before the names of all its queues
};
constexpr std::string_view kRabbitMqPort = "rabbitmq.port";
constexpr std::string_view kRabbitMqHeartbeat = "rabbitmq.heartbeat_s";
constexpr std::string_view kRabbitMqLeaseHeartbeat = "rabbitmq.lease_heartbeat_s";
constexpr std::string_view kRabbitMqTls = "rabbitmq.tls";

Result<bus::RabbitMqOptions> RabbitMqOptionsOf(const std::map<std::string, std::string>& settings) {
  bus::RabbitMqOptions options;
  for (const auto& [name, value] : settings) {
    for (const auto& [text, member] : kRabbitMqTexts) {
      if (name == text) options.*member = value;
    }
    if (name == kTopicPrefix) LEAT_TRY(events::CheckTopicName(value));
    if (name == kRabbitMqPort || name == kRabbitMqHeartbeat || name == kRabbitMqLeaseHeartbeat) {
      const auto number = core::ParseUint64(value);
      if (!number || *number == 0 || *number > UINT16_MAX) {
        return Invalid(name + ": \"" + value.substr(0, 32) + "\" is out of range",
                       "write a number from 1 to 65535");
      }
      if (name == kRabbitMqPort) options.port = static_cast<uint16_t>(*number);
      if (name == kRabbitMqHeartbeat) options.heartbeat_s = static_cast<int>(*number);
      if (name == kRabbitMqLeaseHeartbeat) options.lease_heartbeat_s = static_cast<int>(*number);
    }
    if (name == kRabbitMqTls) {
      if (value != "true" && value != "false")
        return Invalid(name + ": is neither true nor false", "write one of them");
      options.tls = value == "true";
    }
  }
  return options;
}

std::string ShardName(std::string_view role, uint32_t partition) {
  return "shards/" + std::string(role) + "-" + std::to_string(partition);
}

std::string NewToken() {
  unsigned char bytes[32];
  LEAT_ASSERT(RAND_bytes(bytes, sizeof bytes) == 1);
  std::string hex;
  core::AppendHex({reinterpret_cast<const char*>(bytes), sizeof bytes}, &hex);
  return hex;
}

}  // namespace

Status CheckSetting(const std::string& name) {
  const bool of_kafka = name.starts_with(kKafkaPrefix) && name.size() > kKafkaPrefix.size();
  const bool of_rabbitmq = std::any_of(std::begin(kRabbitMqTexts), std::end(kRabbitMqTexts),
                                       [&](const auto& one) { return one.first == name; }) ||
                           name == kRabbitMqPort || name == kRabbitMqHeartbeat ||
                           name == kRabbitMqLeaseHeartbeat || name == kRabbitMqTls;
  if (of_kafka || of_rabbitmq || name == kReplication || name == kRetention ||
      name == kPartitions) {
    return {};
  }
  return Invalid(
      "\"" + name.substr(0, 64) + "\" is not a setting",
      "see docs/transports.md: kafka.<librdkafka property>, rabbitmq.<name>, topics.<name>");
}

Status Node::OpenTransport() {
  LEAT_ASSIGN(const std::string name, TransportOf(*folder_, options_.transport.name));
  for (const char* const setting : {kReplication, kRetention}) {
    if (name == kKafka || !options_.transport.settings.contains(setting)) continue;
    return Fail(ErrorClass::kUnsupported,
                std::string(setting) + ": transport " + name + " has no such setting",
                "leave it out, or use kafka");
  }
  if (name == kKafka) {
    LEAT_ASSIGN(const auto kafka, KafkaOptionsOf(options_.transport.settings));
    LEAT_ASSIGN(transport_, bus::KafkaTransport::Open(kafka));
  } else if (name == kRabbitMq) {
    LEAT_ASSIGN(const auto rabbitmq, RabbitMqOptionsOf(options_.transport.settings));
    LEAT_ASSIGN(transport_, bus::RabbitMqTransport::Open(rabbitmq));
  } else {
    LEAT_ASSIGN(auto embedded, bus::EmbeddedTransport::Open(folder_->Sub("bus")));
    embedded_ = embedded.get();
    transport_ = std::move(embedded);
  }
  relayed_ = embedded_ == nullptr || !options_.mount_logs;
  return {};
}

// On brokers the topics tell; on the embedded transport the shards that are there do.
Status Node::CountPartitions() {
  uint32_t wanted = 0;
  if (const auto set = options_.transport.settings.find(kPartitions);
      set != options_.transport.settings.end()) {
    const auto number = core::ParseUint64(set->second);
    if (!number || *number == 0 || *number > kPartitionsMax) {
      return Invalid(std::string(kPartitions) + ": \"" + set->second.substr(0, 32) +
                         "\" is out of range",
                     "1 to " + std::to_string(kPartitionsMax));
    }
    wanted = static_cast<uint32_t>(*number);
  }
  uint32_t known = 0;
  if (embedded_ == nullptr) {
    LEAT_ASSIGN(const auto topics, transport_->Topics());
    for (const auto& topic : topics) {
      if (topic.name == ingest::kChainBlocksTopic) known = topic.partitions;
    }
  } else {
    while (std::filesystem::exists(folder_->Sub(ShardName(gateway::kIngestRole, known)))) ++known;
  }
  if (known != 0 && wanted != 0 && known != wanted) {
    return Fail(ErrorClass::kConflict,
                std::string(kPartitions) + " is " + std::to_string(wanted) + ", and topic " +
                    std::string(ingest::kChainBlocksTopic) + " has " + std::to_string(known),
                "set " + std::string(kPartitions) + "=" + std::to_string(known) +
                    ": keys do not move between partitions");
  }
  partitions_ = known != 0 ? known : wanted != 0 ? wanted : 1;
  return {};
}

// Who else is there, and how to ask them. Only on brokers.
Status Node::OpenCluster() {
  if (embedded_ != nullptr) return {};
  LEAT_ASSIGN(cluster_, runtime::Cluster::Open(transport_.get()));
  for (const auto role : {gateway::kIngestRole, gateway::kBalancesRole}) {
    LEAT_TRY(gateway::CreateRequestsTopic(transport_.get(), role, partitions_));
  }
  LEAT_ASSIGN(runtime::Requester* const asks, requester());
  forwarder_ = std::make_unique<gateway::Forwarder>(asks);
  if (options_.use == Use::kServe) return {};
  // A process of ours that was here a moment ago is not another one.
  for (const auto& other : cluster_->Instances()) {
    if (other.instance != instance_ && !other.parts.empty()) asks_ = true;
  }
  return {};
}

Status Node::OpenRoles() {
  const auto shard = [&](std::string_view role, uint32_t partition) {
    return folder_->Sub(ShardName(role, partition));
  };
  const auto open = [&](std::string_view name, std::string_view topic,
                        const runtime::Role::OpenPart& part) -> Status {
    const bool wanted = options_.roles.empty() || options_.roles.contains(std::string(name));
    if (options_.use == Use::kServe && !wanted) return {};
    runtime::RoleOptions role;
    role.name = name;
    role.topic = topic;
    role.partitions = partitions_;
    role.standby = options_.standby;
    LEAT_ASSIGN(auto opened, runtime::Role::Open(role, part));
    roles_.push_back(std::move(opened));
    return {};
  };
  const auto mount = [&](std::string_view topic, uint32_t partition, std::string_view owner,
                         const runtime::Shard& of) -> Status {
    if (relayed_) return {};
    return embedded_->Mount(topic, partition, owner, of.log());
  };
  const std::string blocks(ingest::kChainBlocksTopic), entries(ledger::kLedgerEntriesTopic);
  if (relayed_) {
    LEAT_TRY(transport_->CreateTopic(blocks, partitions_, {.owner = gateway::kIngestRole}));
    LEAT_TRY(transport_->CreateTopic(entries, partitions_, {.owner = gateway::kLedgerRole}));
  }
  using Opened = Result<std::unique_ptr<runtime::Part>>;
  const auto open_feed = [&](uint32_t i) -> Opened {
    ingest::ServiceOptions options;
    options.path = shard(gateway::kIngestRole, i);
    options.partition = i;
    options.relayed = relayed_;
    LEAT_ASSIGN(auto service, ingest::Service::Open(options, transport_.get()));
    LEAT_TRY(mount(blocks, i, gateway::kIngestRole, *service->shard()));
    feeds_.push_back(service.get());
    return service;
  };
  const auto open_ledger = [&](uint32_t i) -> Opened {
    ledger::ServiceOptions options;
    options.path = shard(gateway::kLedgerRole, i);
    options.input_topic = blocks;
    options.partition = i;
    options.relayed = relayed_;
    LEAT_ASSIGN(auto service, ledger::Service::Open(options, transport_.get()));
    LEAT_TRY(mount(entries, i, gateway::kLedgerRole, *service->shard()));
    ledgers_.push_back(service.get());
    return service;
  };
  const auto open_balances = [&](uint32_t i) -> Opened {
    balances::ServiceOptions options;
    options.path = shard(gateway::kBalancesRole, i);
    options.topic = entries;
    options.partition = i;
    LEAT_ASSIGN(auto service, balances::Service::Open(options, transport_.get()));
    balances_.push_back(service.get());
    return service;
  };
  LEAT_TRY(open(gateway::kIngestRole, blocks, open_feed));
  LEAT_TRY(open(gateway::kLedgerRole, blocks, open_ledger));
  return open(gateway::kBalancesRole, entries, open_balances);
}

Status Node::StartRoles() {
  if (embedded_ != nullptr) {
    for (const auto& role : roles_) LEAT_TRY(role->OwnAll());
    return {};
  }
  if (asks_) return {};
  if (reads_alone()) {
    for (balances::Service* service : balances_) LEAT_TRY(service->Follow());
    return {};
  }
  cluster_->Announce({instance_, [this] { return Parts(); }});
  forward_server_ = std::make_unique<gateway::ForwardServer>(
      transport_.get(), [this](const gateway::HttpRequest& request,
                               gateway::HttpResponse& response) { api_->Handle(request, response); });
  for (const auto& role : roles_) {
    const std::string& name = role->options().name;
    const bool asked = name != gateway::kLedgerRole;
    role->Join(transport_.get(), instance_, [this, name, asked](uint32_t partition, bool owned) -> Status {
      if (!asked) return {};
      if (owned) return forward_server_->Serve(name, partition);
      forward_server_->Stop(name, partition);
      return {};
    });
  }
  return {};
}

Result<std::unique_ptr<Node>> Node::Open(const NodeOptions& options) {
  std::unique_ptr<Node> node(new Node(options));
  LEAT_ASSIGN(node->folder_, eventstore::DataFolder::Lock(options.data));
  node->instance_ = options.instance;
  if (node->instance_.empty()) {
    LEAT_ASSIGN(node->instance_, node->folder_->Instance());
  }
  node->admin_token_ = NewToken();
  LEAT_TRY(node->OpenTransport());
  if (node->embedded_ != nullptr && (!options.roles.empty() || options.standby)) {
    return Invalid("--role, --standby: the embedded transport is for one process, which has every role",
                   "use --transport kafka or rabbitmq to run roles as processes");
  }
  LEAT_TRY(node->CountPartitions());
  LEAT_TRY(node->OpenCluster());
  LEAT_TRY(node->OpenRoles());
  node->api_ = std::make_unique<gateway::Api>(node->Services());
  LEAT_TRY(node->StartRoles());
  return node;
}

Node::~Node() {
  // What others ask for stops with the parts that know it.
  for (auto role = roles_.rbegin(); role != roles_.rend(); ++role) (*role)->Stop();
  forward_server_.reset();
  StopRequests();
}

Result<runtime::Requester*> Node::requester() {
  std::lock_guard lock(requester_mutex_);
  if (requests_stopped_) return Fail(ErrorClass::kUnavailable, "this process is stopping");
  if (requester_ == nullptr) {
    LEAT_ASSIGN(requester_, runtime::Requester::Open(transport_.get(), instance_));
  }
  return requester_.get();
}

void Node::StopRequests() {
  std::lock_guard lock(requester_mutex_);
  requests_stopped_ = true;
  if (requester_ != nullptr) requester_->Stop();
}

void Node::SetAddress(const std::string& address) {
  if (cluster_ != nullptr) cluster_->SetAddress(address);
}

const runtime::Role* Node::Find(std::string_view role) const {
  const auto found = std::find_if(roles_.begin(), roles_.end(), [&](const auto& one) {
    return one->options().name == role;
  });
  return found == roles_.end() ? nullptr : found->get();
}

bool Node::Owns(std::string_view role, uint32_t partition) const {
  // A reader's copy is what it answers from.
  if (reads_alone()) return role == gateway::kBalancesRole;
  const runtime::Role* const found = Find(role);
  return found != nullptr && found->Owns(partition);
}

std::vector<runtime::PartStanding> Node::Parts() const {
  std::vector<runtime::PartStanding> parts;
  for (const auto& role : roles_) {
    for (uint32_t i = 0; i < partitions_; ++i) {
      parts.push_back({role->options().name, i, role->state(i), role->part(i)->standing()});
    }
  }
  return parts;
}

std::vector<runtime::InstanceStanding> Node::Instances() const {
  if (cluster_ != nullptr) return cluster_->Instances();
  return {{instance_, {}, core::SystemClock().NowUs(), Parts()}};
}

Status Node::Error() const {
  for (const auto& role : roles_) LEAT_TRY(role->error());
  if (forward_server_ != nullptr) return forward_server_->error();
  return {};
}

// Whether a wait ended; an error when it cannot.
template <typename T>
Result<bool> Node::Reached(const Result<T>& waited, std::string_view role, uint32_t partition) {
  if (waited) return true;
  if (!waited.error().Retryable()) return std::unexpected(waited.error());
  const auto now = std::chrono::steady_clock::now();
  const bool served =
      Find(role) != nullptr && !asks_ ? true : cluster_ != nullptr && cluster_->Owner(role, partition);
  if (served || served_.time_since_epoch().count() == 0) served_ = now;
  if (now - served_ < kUnservedMax) return false;
  return Fail(ErrorClass::kUnavailable,
              "nobody serves partition " + std::to_string(partition) + " of role " +
                  std::string(role),
              "start one: leat serve --role " + std::string(role));
}

Status Node::CatchUp(const std::function<void(uint64_t, uint64_t)>& progress) {
  constexpr auto kStep = std::chrono::milliseconds(100);
  uint64_t applied_before = 0, decided_before = 0;  // of the partitions that were waited for
  for (uint32_t i = 0; i < partitions_; ++i) {
    uint64_t applied = 0, decided = 0;
    const auto until = [&](const std::function<Result<bool>()>& reached) -> Status {
      for (;;) {
        LEAT_ASSIGN(const bool is, reached());
        if (is) return {};
        LEAT_TRY(Error());
        LEAT_TRY(transport_->error());
        if (balances(i) != nullptr) applied = balances(i)->applied();
        if (ledger(i) != nullptr) decided = ledger(i)->decided();
        if (progress) progress(applied_before + applied, decided_before + decided);
      }
    };
    if (feed(i) != nullptr && Owns(gateway::kIngestRole, i)) {
      LEAT_TRY(until([&] {
        return feed(i)->WaitPublished(kStep) || !Owns(gateway::kIngestRole, i);
      }));
    }
    LEAT_ASSIGN(const auto blocks, transport_->End(ingest::kChainBlocksTopic, i));
    uint64_t entries = 0;
    if (reads_alone()) {
      // What nobody decides on now is not waited for.
      LEAT_ASSIGN(const auto end, transport_->End(ledger::kLedgerEntriesTopic, i));
      entries = end.offset;
    } else {
      LEAT_TRY(until([&]() -> Result<bool> {
        const auto reached = api_->WaitDecided(i, blocks.offset, kStep);
        if (reached) entries = *reached;
        return Reached(reached, gateway::kLedgerRole, i);
      }));
    }
    LEAT_TRY(until([&]() -> Result<bool> {
      return Reached(api_->WaitBalances(i, entries, kStep), gateway::kBalancesRole, i);
    }));
    applied_before += entries;
    decided_before += entries;
  }
  if (progress) progress(applied_before, decided_before);
  return {};
}

gateway::Services Node::Services() {
  gateway::Services services;
  services.transport = transport_.get();
  services.partitions = partitions_;
  services.feeds = feeds_;
  services.ledgers = ledgers_;
  services.balances = balances_;
  services.owns = [this](std::string_view role, uint32_t partition) { return Owns(role, partition); };
  services.cluster = cluster_.get();
  services.forwarder = forwarder_.get();
  services.instances = [this] { return Instances(); };
  services.error = [this] { return Error(); };
  services.requester = [this] { return requester(); };
  services.default_chain = options_.default_chain;
  services.admin_token = admin_token_;
  services.logs = [this] {
    std::vector<std::pair<std::string, std::shared_ptr<const eventstore::Log>>> logs;
    // Kept by its shard, of which there may soon be another one.
    const auto add = [&](std::string_view topic, uint32_t partition,
                         const std::shared_ptr<runtime::Shard>& shard) {
      if (shard == nullptr) return;
      std::string name(topic);
      if (partitions_ > 1) name += "#" + std::to_string(partition);
      logs.emplace_back(name, std::shared_ptr<const eventstore::Log>(shard, shard->log()));
    };
    if (embedded_ != nullptr) {
      logs.emplace_back("bus", std::shared_ptr<const eventstore::Log>(
                                   std::shared_ptr<void>(), &embedded_->shared_log()));
    }
    for (uint32_t i = 0; i < feeds_.size(); ++i) {
      add(ingest::kChainBlocksTopic, i, feeds_[i]->shard());
    }
    for (uint32_t i = 0; i < ledgers_.size(); ++i) {
      add(ledger::kLedgerEntriesTopic, i, ledgers_[i]->shard());
    }
    return logs;
  };
  services.verify_files = [this]() -> Status {
    if (embedded_ != nullptr) LEAT_TRY(embedded_->VerifyFiles());
    for (const auto* feed : feeds_) {
      if (const auto shard = feed->shard()) LEAT_TRY(shard->database().VerifyChecksums());
    }
    for (const auto* ledger : ledgers_) LEAT_TRY(ledger->VerifyFiles());
    for (const auto* balances : balances_) LEAT_TRY(balances->VerifyFiles());
    return {};
  };
  return services;
}

}  // namespace leat::apps
