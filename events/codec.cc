#include "events/codec.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/message.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "core/amount.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "events/position.h"
#include "events/registry.h"
#include "format.pb.h"

namespace leat::events {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::json;

constexpr int kNestingMax = 32;

constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void AppendBase64(std::string_view bytes, std::string* out) {
  size_t i = 0;
  for (; i + 2 < bytes.size(); i += 3) {
    const uint32_t group = static_cast<uint8_t>(bytes[i]) << 16 |
                           static_cast<uint8_t>(bytes[i + 1]) << 8 |
                           static_cast<uint8_t>(bytes[i + 2]);
    for (int shift = 18; shift >= 0; shift -= 6) out->push_back(kBase64[group >> shift & 63]);
  }
  const size_t left = bytes.size() - i;
  if (left == 0) return;
  const uint32_t group = static_cast<uint8_t>(bytes[i]) << 16 |
                         (left == 2 ? static_cast<uint8_t>(bytes[i + 1]) << 8 : 0);
  out->push_back(kBase64[group >> 18 & 63]);
  out->push_back(kBase64[group >> 12 & 63]);
  out->push_back(left == 2 ? kBase64[group >> 6 & 63] : '=');
  out->push_back('=');
}

bool DecodeBase64(std::string_view text, std::string* out) {
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    const char normal = c == '-' ? '+' : c == '_' ? '/' : c;
    const char* found = normal == 0 ? nullptr : std::char_traits<char>::find(kBase64, 64, normal);
    if (found == nullptr) return false;
    group = group << 6 | static_cast<uint32_t>(found - kBase64);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out->push_back(static_cast<char>(group >> bits));
    }
  }
  return bits < 6;
}

Format FormatOf(const FieldDescriptor* field) {
  return field->options().GetExtension(format);
}

void AppendBytes(const FieldDescriptor* field, std::string_view bytes, std::string* out) {
  out->push_back('"');
  switch (FormatOf(field)) {
    case HEX:
      out->append("0x");
      core::AppendHex(bytes, out);
      break;
    case DECIMAL:
      // A wrong length cannot come from our codec; shown as hex rather than lost.
      if (const auto amount = Amount::FromBytes(bytes)) {
        out->append(amount->ToDecimal());
      } else {
        out->append(core::ToHex(bytes));
      }
      break;
    default:
      AppendBase64(bytes, out);
  }
  out->push_back('"');
}

void AppendMessage(const Message& message, std::string* out);

void AppendValue(const Message& message, const FieldDescriptor* field, int index,
                 std::string* out) {
  const Reflection* r = message.GetReflection();
  const bool repeated = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      *out += std::to_string(repeated ? r->GetRepeatedInt32(message, field, index)
                                      : r->GetInt32(message, field));
      break;
    case FieldDescriptor::CPPTYPE_UINT32:
      *out += std::to_string(repeated ? r->GetRepeatedUInt32(message, field, index)
                                      : r->GetUInt32(message, field));
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      *out += '"' + std::to_string(repeated ? r->GetRepeatedInt64(message, field, index)
                                            : r->GetInt64(message, field)) + '"';
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      *out += '"' + std::to_string(repeated ? r->GetRepeatedUInt64(message, field, index)
                                            : r->GetUInt64(message, field)) + '"';
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      *out += json(repeated ? r->GetRepeatedDouble(message, field, index)
                            : r->GetDouble(message, field)).dump();
      break;
    case FieldDescriptor::CPPTYPE_FLOAT:
      *out += json(repeated ? r->GetRepeatedFloat(message, field, index)
                            : r->GetFloat(message, field)).dump();
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      *out += (repeated ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field))
                  ? "true" : "false";
      break;
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = repeated ? r->GetRepeatedEnumValue(message, field, index)
                                  : r->GetEnumValue(message, field);
      const auto* value = field->enum_type()->FindValueByNumber(number);
      *out += value != nullptr ? '"' + value->name() + '"' : std::to_string(number);
      break;
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string scratch;
      const std::string& text =
          repeated ? r->GetRepeatedStringReference(message, field, index, &scratch)
                   : r->GetStringReference(message, field, &scratch);
      if (field->type() == FieldDescriptor::TYPE_BYTES) {
        AppendBytes(field, text, out);
      } else {
        AppendJsonString(text, out);
      }
      break;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      AppendMessage(repeated ? r->GetRepeatedMessage(message, field, index)
                             : r->GetMessage(message, field), out);
      break;
  }
}

void AppendMessage(const Message& message, std::string* out) {
  std::vector<const FieldDescriptor*> fields;
  const Reflection* reflection = message.GetReflection();
  reflection->ListFields(message, &fields);
  out->push_back('{');
  bool first = true;
  for (const FieldDescriptor* field : fields) {
    if (!first) out->push_back(',');
    first = false;
    *out += '"' + field->name() + "\":";
    if (!field->is_repeated()) {
      AppendValue(message, field, -1, out);
      continue;
    }
    out->push_back('[');
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      if (i > 0) out->push_back(',');
      AppendValue(message, field, i, out);
    }
    out->push_back(']');
  }
  out->push_back('}');
}

std::unexpected<Error> BadField(const std::string& path, std::string_view what,
                                std::string_view remedy = "see the .proto of this type") {
  return Invalid("data." + path + ": " + std::string(what), std::string(remedy));
}

// Whole numbers, as JSON numbers or as decimal strings.
template <typename T>
Result<T> ParseInteger(const json& value, const std::string& path) {
  std::string text;
  if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_number_integer()) {
    text = value.dump();
  } else {
    return BadField(path, "is not a whole number");
  }
  T out{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) {
    return BadField(path, "is out of range or not a whole number",
                    sizeof(T) == 8 ? "a number of 64 bits" : "a number of 32 bits");
  }
  return out;
}

Result<std::string> ParseBytes(const FieldDescriptor* field, const json& value,
                               const std::string& path) {
  if (!value.is_string() && !(FormatOf(field) == DECIMAL && value.is_number_unsigned())) {
    return BadField(path, "is not a string");
  }
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (FormatOf(field) == HEX) {
    auto bytes = core::FromHex(text);
    if (!bytes) return BadField(path, bytes.error().message, bytes.error().remedy);
    return bytes;
  }
  if (FormatOf(field) == DECIMAL) {
    const auto amount = Amount::ParseUnsigned(text);
    if (!amount) return BadField(path, amount.error().message, amount.error().remedy);
    return amount->Magnitude();
  }
  std::string bytes;
  if (!DecodeBase64(text, &bytes)) return BadField(path, "is not base64");
  return bytes;
}

Status ParseMessage(const json& object, const std::string& path, int depth, Message* message);

Status ParseValue(const FieldDescriptor* field, const json& value, const std::string& path,
                  int depth, Message* message) {
  const Reflection* r = message->GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      LEAT_ASSIGN(const auto number, ParseInteger<int32_t>(value, path));
      repeated ? r->AddInt32(message, field, number) : r->SetInt32(message, field, number);
      break;
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      LEAT_ASSIGN(const auto number, ParseInteger<uint32_t>(value, path));
      repeated ? r->AddUInt32(message, field, number) : r->SetUInt32(message, field, number);
      break;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      LEAT_ASSIGN(const auto number, ParseInteger<int64_t>(value, path));
      repeated ? r->AddInt64(message, field, number) : r->SetInt64(message, field, number);
      break;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      LEAT_ASSIGN(const auto number, ParseInteger<uint64_t>(value, path));
      repeated ? r->AddUInt64(message, field, number) : r->SetUInt64(message, field, number);
      break;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!value.is_number()) return BadField(path, "is not a number");
      repeated ? r->AddDouble(message, field, value.get<double>())
               : r->SetDouble(message, field, value.get<double>());
      break;
    case FieldDescriptor::CPPTYPE_FLOAT:
      if (!value.is_number()) return BadField(path, "is not a number");
      repeated ? r->AddFloat(message, field, value.get<float>())
               : r->SetFloat(message, field, value.get<float>());
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.is_boolean()) return BadField(path, "is not true or false");
      repeated ? r->AddBool(message, field, value.get<bool>())
               : r->SetBool(message, field, value.get<bool>());
      break;
    case FieldDescriptor::CPPTYPE_ENUM: {
      if (value.is_number_integer()) {  // of a newer version, whose name is not known here
        LEAT_ASSIGN(const auto number, ParseInteger<int32_t>(value, path));
        repeated ? r->AddEnumValue(message, field, number)
                 : r->SetEnumValue(message, field, number);
        break;
      }
      const auto* found = value.is_string()
                              ? field->enum_type()->FindValueByName(value.get<std::string>())
                              : nullptr;
      if (found == nullptr) {
        std::string names;
        for (int i = 0; i < field->enum_type()->value_count(); ++i) {
          names += (i > 0 ? ", " : "") + field->enum_type()->value(i)->name();
        }
        return BadField(path, "is not one of its names", names);
      }
      repeated ? r->AddEnum(message, field, found) : r->SetEnum(message, field, found);
      break;
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text;
      if (field->type() == FieldDescriptor::TYPE_BYTES) {
        LEAT_ASSIGN(text, ParseBytes(field, value, path));
      } else {
        if (!value.is_string()) return BadField(path, "is not a string");
        text = value.get<std::string>();
      }
      repeated ? r->AddString(message, field, std::move(text))
               : r->SetString(message, field, std::move(text));
      break;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ParseMessage(value, path + ".", depth + 1,
                          repeated ? r->AddMessage(message, field)
                                   : r->MutableMessage(message, field));
  }
  return {};
}

// `path` is empty, or ends in '.'.
Status ParseMessage(const json& object, const std::string& path, int depth, Message* message) {
  if (!object.is_object()) {
    return Invalid("data" + (path.empty() ? "" : "." + path.substr(0, path.size() - 1)) +
                   ": is not a JSON object");
  }
  if (depth > kNestingMax) return BadField(path, "is nested too deeply");
  const auto* descriptor = message->GetDescriptor();
  for (const auto& [name, value] : object.items()) {
    const FieldDescriptor* field = descriptor->FindFieldByName(name);
    if (field == nullptr) field = descriptor->FindFieldByCamelcaseName(name);
    const std::string at = path + name;
    if (field == nullptr) {
      std::string fields;
      for (int i = 0; i < descriptor->field_count(); ++i) {
        fields += (i > 0 ? ", " : "its fields are ") + descriptor->field(i)->name();
      }
      return BadField(at, "is not a field of " + descriptor->full_name(), fields);
    }
    if (value.is_null()) continue;
    if (!field->is_repeated()) {
      LEAT_TRY(ParseValue(field, value, at, depth, message));
      continue;
    }
    if (!value.is_array()) return BadField(at, "is not a list");
    for (size_t i = 0; i < value.size(); ++i) {
      LEAT_TRY(ParseValue(field, value[i], at + "[" + std::to_string(i) + "]", depth, message));
    }
  }
  return {};
}

std::unique_ptr<Message> NewMessage(const google::protobuf::Descriptor* descriptor) {
  return std::unique_ptr<Message>(google::protobuf::MessageFactory::generated_factory()
                                      ->GetPrototype(descriptor)
                                      ->New());
}

Result<std::unique_ptr<Message>> ParseData(std::string_view type, std::string_view protobuf) {
  LEAT_ASSIGN(const auto* descriptor, Registry::Global().Require(type));
  if (protobuf.size() > kDataBytesMax) {
    return Invalid("data: " + std::to_string(protobuf.size()) + " bytes",
                   "at most " + std::to_string(kDataBytesMax));
  }
  auto message = NewMessage(descriptor);
  if (!message->ParseFromArray(protobuf.data(), static_cast<int>(protobuf.size()))) {
    return Invalid("data: is not a " + descriptor->full_name() + " in Protobuf",
                   "encode it by its .proto, or send JSON");
  }
  return message;
}

}  // namespace

void AppendJsonString(std::string_view text, std::string* out) {
  bool plain = true;
  for (const char c : text) {
    plain &= static_cast<uint8_t>(c) >= 0x20 && static_cast<uint8_t>(c) < 0x80 && c != '"' &&
             c != '\\';
  }
  if (plain) {
    out->push_back('"');
    out->append(text);
    out->push_back('"');
    return;
  }
  *out += json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::string> DataToJson(std::string_view type, std::string_view protobuf) {
  LEAT_ASSIGN(const auto message, ParseData(type, protobuf));
  std::string out;
  AppendMessage(*message, &out);
  return out;
}

namespace {

Result<std::string> DataFromDom(std::string_view type, const json& object) {
  LEAT_ASSIGN(const auto* descriptor, Registry::Global().Require(type));
  auto message = NewMessage(descriptor);
  LEAT_TRY(ParseMessage(object, "", 0, message.get()));
  std::string out;
  if (!message->SerializeToString(&out)) return Invalid("data: holds a string that is no UTF-8");
  return out;
}

Result<json> ParseJson(std::string_view text, std::string_view what) {
  json dom = json::parse(text, nullptr, false);
  if (dom.is_discarded()) {
    return Invalid(std::string(what) + " is not JSON", "check its quotes and braces");
  }
  return dom;
}

// The value of a string attribute, "" where it is absent.
Result<std::string> Attribute(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return std::string();
  if (!found->is_string()) return Invalid(std::string(name) + ": is not a string");
  auto text = found->get<std::string>();
  if (text.empty()) return Invalid(std::string(name) + ": is empty", "leave it out, or fill it");
  if (text.size() > kAttributeBytesMax) {
    return Invalid(std::string(name) + ": is longer than " + std::to_string(kAttributeBytesMax) +
                   " bytes");
  }
  return text;
}

bool IsKnownAttribute(std::string_view name) {
  for (const std::string_view known :
       {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema",
        "partitionkey", "streamversion", "position", "correlationid", "causationid", "traceparent",
        "cause", "data", "data_base64"}) {
    if (name == known) return true;
  }
  return false;
}

// "application/json", whatever its parameters.
bool IsJsonType(std::string_view content_type) {
  std::string media_type(content_type.substr(0, content_type.find_first_of("; ")));
  for (char& c : media_type) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return media_type == kJsonContentType;
}

// "topic/partition@offset#n/m", as EventToJson writes it.
Result<Cause> ParseCause(const std::string& text, std::string* topic) {
  const size_t hash = text.rfind('#');
  const size_t slash = hash == std::string::npos ? hash : text.find('/', hash);
  if (slash != std::string::npos) {
    const auto position = ParsePosition(std::string_view(text).substr(0, hash));
    const auto n = core::ParseUint64(std::string_view(text).substr(hash + 1, slash - hash - 1));
    const auto m = core::ParseUint64(std::string_view(text).substr(slash + 1));
    if (position && n && m && *n >= 1 && *n <= *m && *m <= UINT32_MAX) {
      *topic = position->topic;
      return Cause{*topic, position->partition, position->offset, static_cast<uint32_t>(*n),
                   static_cast<uint32_t>(*m)};
    }
  }
  return Invalid("cause: \"" + text.substr(0, 120) + "\" is not a cause",
                 "write topic/partition@offset#n/m, or leave it out");
}

Result<Event> EventFromDom(const json& object, Absent absent) {
  constexpr std::string_view kRemedy =
      "send a CloudEvent: {\"specversion\":\"1.0\",\"type\":…,\"source\":…,\"id\":…,\"data\":…}";
  if (!object.is_object()) return Invalid("this is not a CloudEvent", std::string(kRemedy));
  LEAT_ASSIGN(const std::string specversion, Attribute(object, "specversion"));
  if (specversion != "1.0") {
    return Invalid(specversion.empty() ? "specversion: is missing" : "specversion: is not \"1.0\"",
                   std::string(kRemedy));
  }
  LEAT_ASSIGN(const std::string type, Attribute(object, "type"));
  if (type.empty()) return Invalid("type: is missing", std::string(kRemedy));
  LEAT_TRY(Registry::Global().Require(type));
  LEAT_ASSIGN(std::string id, Attribute(object, "id"));
  LEAT_ASSIGN(std::string source, Attribute(object, "source"));
  LEAT_ASSIGN(const std::string subject, Attribute(object, "subject"));
  LEAT_ASSIGN(const std::string time, Attribute(object, "time"));
  LEAT_ASSIGN(std::string content_type, Attribute(object, "datacontenttype"));
  LEAT_ASSIGN(const std::string partition_key, Attribute(object, "partitionkey"));
  LEAT_ASSIGN(const std::string correlation_id, Attribute(object, "correlationid"));
  LEAT_ASSIGN(const std::string causation_id, Attribute(object, "causationid"));
  LEAT_ASSIGN(const std::string trace_parent, Attribute(object, "traceparent"));
  LEAT_ASSIGN(const std::string cause, Attribute(object, "cause"));
  LEAT_ASSIGN(const std::string stream_version, Attribute(object, "streamversion"));
  const bool made = absent == Absent::kMade;
  if (made && id.empty()) id = core::NewUuid();
  if (made && source.empty()) source = "leat";

  EventView view;
  view.type = type;
  view.id = id;
  view.source = source;
  view.subject = subject;
  view.partitionkey = partition_key;
  view.correlationid = correlation_id;
  view.causationid = causation_id;
  view.traceparent = trace_parent;
  if (made) view.time_us = core::SystemClock().NowUs();
  std::string cause_topic;
  if (!cause.empty()) {
    LEAT_ASSIGN(view.cause, ParseCause(cause, &cause_topic));
  }
  if (!stream_version.empty()) {
    auto version = core::ParseUint64(stream_version);
    if (!version) return std::unexpected(version.error().WithContext("streamversion"));
    view.streamversion = *version;
  }
  if (!time.empty()) {
    auto parsed = core::ParseTime(time);
    if (!parsed) return std::unexpected(parsed.error().WithContext("time"));
    view.time_us = *parsed;
  }

  std::string data;
  const auto plain = object.find("data");
  const auto base64 = object.find("data_base64");
  if (plain != object.end() && base64 != object.end()) {
    return Invalid("data: stands beside data_base64", "send one of them");
  }
  if (base64 != object.end()) {
    if (!base64->is_string() || !DecodeBase64(base64->get_ref<const std::string&>(), &data)) {
      return Invalid("data_base64: is not base64");
    }
    if (IsJsonType(content_type)) {
      LEAT_ASSIGN(data, DataFromJson(type, data));
    } else {
      view.datacontenttype = content_type;
    }
  } else if (plain != object.end()) {
    if (!content_type.empty() && !IsJsonType(content_type)) {
      return Invalid("datacontenttype: \"" + content_type.substr(0, 64) + "\" is not that of JSON data",
                     "leave it out, or send the bytes as data_base64");
    }
    LEAT_ASSIGN(data, DataFromDom(type, *plain));
  }
  view.data = data;
  LEAT_TRY(CheckEvent(view));

  std::vector<std::pair<std::string, std::string>> extensions;
  for (const auto& [name, value] : object.items()) {
    if (IsKnownAttribute(name)) continue;
    const bool good_name = !name.empty() && name.size() <= 64 &&
                           name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") ==
                               std::string::npos;
    if (!good_name) {
      return Invalid(name.substr(0, 64) + ": is not a CloudEvents attribute",
                     "extension names are lower-case letters and digits");
    }
    if (value.is_null()) continue;
    if (value.is_structured()) return Invalid(name + ": an extension is a string, number or bool");
    if (extensions.size() == kExtensionsMax) return Invalid("more extensions than allowed");
    extensions.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  for (const auto& [name, value] : extensions) view.extensions.emplace_back(name, value);
  LEAT_TRY(CheckLimits(view));
  return Event(view);
}

}  // namespace

Result<std::string> DataFromJson(std::string_view type, std::string_view text) {
  LEAT_ASSIGN(const json dom, ParseJson(text, "data"));
  return DataFromDom(type, dom);
}

Status CheckEvent(const EventView& event) {
  if (event.datacontenttype.empty() || event.datacontenttype == kProtobufContentType) {
    LEAT_TRY(ParseData(event.type, event.data));
    return {};
  }
  return Invalid("datacontenttype: \"" + std::string(event.datacontenttype.substr(0, 64)) +
                     "\" cannot be read here",
                 "use application/protobuf or application/json");
}

std::string EventToJson(const EventView& event, std::string_view position) {
  std::string out = R"({"specversion":"1.0")";
  const auto put = [&](std::string_view name, std::string_view value) {
    if (value.empty()) return;
    out += ",\"";
    out += name;
    out += "\":";
    AppendJsonString(value, &out);
  };
  put("id", EventId(event));
  put("source", event.source);
  put("type", event.type);
  put("subject", event.subject);
  put("time", core::FormatTime(event.time_us));
  const auto* descriptor = Registry::Global().Find(event.type);
  const bool is_protobuf =
      event.datacontenttype.empty() || event.datacontenttype == kProtobufContentType;
  auto data = is_protobuf ? DataToJson(event.type, event.data)
                          : Result<std::string>(Invalid("not Protobuf"));
  put("datacontenttype", data ? kJsonContentType
                              : (is_protobuf ? kProtobufContentType : event.datacontenttype));
  put("dataschema", event.dataschema.empty() && descriptor != nullptr
                        ? Registry::SchemaOf(descriptor)
                        : std::string(event.dataschema));
  put("partitionkey", event.partitionkey);
  if (event.streamversion) put("streamversion", std::to_string(*event.streamversion));
  put("position", position);
  put("correlationid", event.correlationid);
  put("causationid", event.causationid);
  put("traceparent", event.traceparent);
  if (event.cause) {
    const Cause& cause = *event.cause;
    put("cause", std::string(cause.topic) + "/" + std::to_string(cause.partition) + "@" +
                     std::to_string(cause.offset) + "#" + std::to_string(cause.n) + "/" +
                     std::to_string(cause.m));
  }
  for (const auto& [name, value] : event.extensions) put(name, value);
  if (data) {
    out += ",\"data\":" + *data;
  } else if (IsJsonType(event.datacontenttype) && json::accept(event.data)) {
    out += ",\"data\":";
    // A line break can only stand between tokens.
    for (const char c : event.data) out.push_back(c == '\n' || c == '\r' ? ' ' : c);
  } else if (!event.data.empty()) {
    out += ",\"data_base64\":\"";
    AppendBase64(event.data, &out);
    out += '"';
  }
  out += '}';
  return out;
}

Result<std::vector<Event>> EventsFromJson(std::string_view text, Absent absent) {
  LEAT_ASSIGN(const json dom, ParseJson(text, "this"));
  std::vector<Event> out;
  if (!dom.is_array()) {
    LEAT_ASSIGN(Event event, EventFromDom(dom, absent));
    out.push_back(std::move(event));
    return out;
  }
  if (dom.size() > kEventsMax) {
    return Invalid("these are " + std::to_string(dom.size()) + " events",
                   "at most " + std::to_string(kEventsMax) + " at once: publish them in parts");
  }
  for (size_t i = 0; i < dom.size(); ++i) {
    auto event = EventFromDom(dom[i], absent);
    if (!event) return std::unexpected(event.error().WithContext("event " + std::to_string(i)));
    out.push_back(std::move(*event));
  }
  return out;
}

}  // namespace leat::events
