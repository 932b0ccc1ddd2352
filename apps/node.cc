#include "apps/node.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "bus/embedded/embedded_transport.h"
#include "bus/kafka/kafka_transport.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/bytes.h"

namespace leat::apps {
namespace {

constexpr std::string_view kEmbedded = "embedded";
constexpr std::string_view kKafka = "kafka";
constexpr std::string_view kRabbitMq = "rabbitmq";
constexpr std::string_view kKafkaPrefix = "kafka.";
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
      if (!for_ever && (!number || *number == 0 || *number > INT32_MAX)) {
        return Invalid(name + ": \"" + value.substr(0, 32) + "\" is out of range",
                       "write a number");
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
constexpr std::string_view kRabbitMqTls = "rabbitmq.tls";

Result<bus::RabbitMqOptions> RabbitMqOptionsOf(const std::map<std::string, std::string>& settings) {
  bus::RabbitMqOptions options;
  for (const auto& [name, value] : settings) {
    for (const auto& [text, member] : kRabbitMqTexts) {
      if (name == text) options.*member = value;
    }
    if (name == kTopicPrefix) LEAT_TRY(events::CheckTopicName(value));
    if (name == kRabbitMqPort || name == kRabbitMqHeartbeat) {
      const auto number = core::ParseUint64(value);
      if (!number || *number == 0 || *number > UINT16_MAX) {
        return Invalid(name + ": \"" + value.substr(0, 32) + "\" is out of range",
                       "write a number from 1 to 65535");
      }
      if (name == kRabbitMqPort) options.port = static_cast<uint16_t>(*number);
      if (name == kRabbitMqHeartbeat) options.heartbeat_s = static_cast<int>(*number);
    }
    if (name == kRabbitMqTls) {
      if (value != "true" && value != "false")
        return Invalid(name + ": is neither true nor false", "write one of them");
      options.tls = value == "true";
    }
  }
  return options;
}

}  // namespace

Status CheckSetting(const std::string& name) {
  const bool of_kafka = name.starts_with(kKafkaPrefix) && name.size() > kKafkaPrefix.size();
  const bool of_rabbitmq = std::any_of(std::begin(kRabbitMqTexts), std::end(kRabbitMqTexts),
                                       [&](const auto& one) { return one.first == name; }) ||
                           name == kRabbitMqPort || name == kRabbitMqHeartbeat ||
                           name == kRabbitMqTls;
  if (of_kafka || of_rabbitmq || name == kReplication || name == kRetention) return {};
  return Invalid(
      "\"" + name.substr(0, 64) + "\" is not a setting",
      "see docs/transports.md: kafka.<librdkafka property>, rabbitmq.<name>, topics.<name>");
}

Status Node::OpenTransport() {
  LEAT_ASSIGN(const std::string name, TransportOf(*folder_, options_.transport.name));
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

Status Node::OpenFeed() {
  runtime::ShardOptions ingest;
  ingest.path = folder_->Sub("shards/ingest-0");
  ingest.name = "ingest-0";
  ingest.has_log = true;
  LEAT_ASSIGN(ingest_shard_, runtime::Shard::Open(ingest));
  feed_ = std::make_unique<ingest::ChainFeed>(ingest_shard_.get());
  const std::string topic(ingest::kChainBlocksTopic);
  if (!relayed_) return embedded_->Mount(topic, 0, "ingest", ingest_shard_->log());
  LEAT_TRY(transport_->CreateTopic(topic, 1, {.owner = "ingest"}));
  if (options_.observes) return {};
  LEAT_ASSIGN(const auto ownership, runtime::ClaimTopic(ingest_shard_.get(), &feed_->evolver(),
                                                        transport_.get(), topic, 0, {}, nullptr));
  feed_relay_ =
      std::make_unique<runtime::Relay>(ingest_shard_.get(), transport_.get(), topic, 0, ownership);
  return feed_relay_->Start();
}

bool Node::WaitBlocksPublished(std::chrono::milliseconds timeout) const {
  return feed_relay_ == nullptr ||
         feed_relay_->status().WaitApplied(ingest_shard_->log()->size(), timeout);
}

Result<std::unique_ptr<Node>> Node::Open(const NodeOptions& options) {
  std::unique_ptr<Node> node(new Node(options));
  LEAT_ASSIGN(node->folder_, eventstore::DataFolder::Lock(options.data));
  const auto sub = [&](std::string_view name) { return node->folder_->Sub(name); };
  LEAT_TRY(node->OpenTransport());
  LEAT_TRY(node->OpenFeed());

  ledger::ServiceOptions ledger;
  ledger.path = sub("shards/ledger-0");
  ledger.input_topic = ingest::kChainBlocksTopic;
  ledger.relayed = node->relayed_;
  ledger.observes = options.observes && node->relayed_;
  LEAT_ASSIGN(node->ledger_, ledger::Service::Open(ledger, node->transport_.get()));
  if (!node->relayed_) {
    LEAT_TRY(
        node->embedded_->Mount(ledger::kLedgerEntriesTopic, 0, "ledger", &node->ledger_->log()));
  }

  LEAT_ASSIGN(node->balances_, balances::Service::Open(sub("shards/balances-0"),
                                                       std::string(ledger::kLedgerEntriesTopic),
                                                       node->transport_.get()));
  LEAT_TRY(node->ledger_->Start());
  LEAT_TRY(node->balances_->Start());
  return node;
}

Node::~Node() = default;

Result<runtime::Requester*> Node::requester() {
  std::lock_guard lock(requester_mutex_);
  if (requests_stopped_) return Fail(ErrorClass::kUnavailable, "this process is stopping");
  if (requester_ == nullptr) {
    std::string instance = options_.instance;
    if (instance.empty()) {
      LEAT_ASSIGN(instance, folder_->Instance());
    }
    LEAT_ASSIGN(requester_, runtime::Requester::Open(transport_.get(), instance));
  }
  return requester_.get();
}

void Node::StopRequests() {
  std::lock_guard lock(requester_mutex_);
  requests_stopped_ = true;
  if (requester_ != nullptr) requester_->Stop();
}

Status Node::CatchUp(const std::function<void(uint64_t, uint64_t)>& progress) {
  constexpr auto kStep = std::chrono::milliseconds(100);
  const auto until = [&](const std::function<bool()>& reached) -> Status {
    while (!reached()) {
      if (feed_relay_ != nullptr) LEAT_TRY(feed_relay_->status().error());
      LEAT_TRY(ledger_->error());
      LEAT_TRY(balances_->error());
      if (progress) progress(balances_->applied(), ledger_->decided());
    }
    return {};
  };
  LEAT_TRY(until([&] { return WaitBlocksPublished(kStep); }));
  LEAT_ASSIGN(const auto blocks, transport_->End(ingest::kChainBlocksTopic, 0));
  LEAT_TRY(until([&] { return ledger_->WaitApplied(blocks.offset, kStep); }));
  LEAT_TRY(until([&] { return ledger_->WaitPublished(kStep); }));
  LEAT_ASSIGN(const uint64_t entries, ledger_->PublishedEnd());
  LEAT_TRY(until([&] { return balances_->WaitApplied(entries, kStep); }));
  if (progress) progress(balances_->applied(), ledger_->decided());
  return {};
}

gateway::Services Node::services() {
  gateway::Services services;
  services.transport = transport_.get();
  services.feed = feed_.get();
  services.ledger = ledger_.get();
  services.balances = balances_.get();
  services.requester = [this] { return requester(); };
  services.default_chain = options_.default_chain;
  if (feed_relay_ != nullptr) {
    services.feed_error = [this] { return feed_relay_->status().error(); };
    services.blocks_published = [this](std::chrono::milliseconds timeout) {
      return WaitBlocksPublished(timeout);
    };
  }
  if (embedded_ != nullptr) services.logs.emplace_back("bus", &embedded_->shared_log());
  services.logs.emplace_back(std::string(ingest::kChainBlocksTopic), ingest_shard_->log());
  services.logs.emplace_back(std::string(ledger::kLedgerEntriesTopic), &ledger_->log());
  services.verify_files = [this]() -> Status {
    if (embedded_ != nullptr) LEAT_TRY(embedded_->VerifyFiles());
    LEAT_TRY(ingest_shard_->database().VerifyChecksums());
    LEAT_TRY(ledger_->VerifyFiles());
    return balances_->VerifyFiles();
  };
  return services;
}

}  // namespace leat::apps
