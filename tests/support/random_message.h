// Fills any Protobuf message by reflection: at random, or every field there is.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/message.h>

#include <memory>
#include <string>

#include "format.pb.h"
#include "tests/support/test_support.h"

namespace leat::test {

inline std::unique_ptr<google::protobuf::Message> NewMessage(
    const google::protobuf::Descriptor* descriptor) {
  return std::unique_ptr<google::protobuf::Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(descriptor)->New());
}

// Of a DECIMAL field: what our codec writes has no leading zeros.
inline std::string RandomDecimal(Random& random) {
  std::string bytes = RandomBytes(random, Below(random, 33));
  if (!bytes.empty() && bytes[0] == 0) bytes[0] = 1;
  return bytes;
}

inline void FillRandomly(Random& random, google::protobuf::Message* message, int depth = 0) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message->GetReflection();
  const auto* descriptor = message->GetDescriptor();
  for (int f = 0; f < descriptor->field_count(); ++f) {
    const FieldDescriptor* field = descriptor->field(f);
    const bool repeated = field->is_repeated();
    uint64_t times = repeated ? Below(random, depth > 2 ? 2 : 4) : Below(random, 4) == 0 ? 0 : 1;
    for (; times > 0; --times) {
      const bool edge = Below(random, 4) == 0;
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT32: {
          const auto v = edge ? INT32_MIN : static_cast<int32_t>(random());
          repeated ? reflection->AddInt32(message, field, v) : reflection->SetInt32(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_UINT32: {
          const auto v = edge ? UINT32_MAX : static_cast<uint32_t>(random());
          repeated ? reflection->AddUInt32(message, field, v)
                   : reflection->SetUInt32(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_INT64: {
          const auto v = edge ? INT64_MIN : static_cast<int64_t>(random());
          repeated ? reflection->AddInt64(message, field, v) : reflection->SetInt64(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_UINT64: {
          const auto v = edge ? UINT64_MAX : random();
          repeated ? reflection->AddUInt64(message, field, v)
                   : reflection->SetUInt64(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_DOUBLE: {
          const double v = edge ? 1e-300 : static_cast<double>(random()) / 7;
          repeated ? reflection->AddDouble(message, field, v)
                   : reflection->SetDouble(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_FLOAT: {
          const float v = static_cast<float>(random()) / 7;
          repeated ? reflection->AddFloat(message, field, v) : reflection->SetFloat(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_BOOL: {
          const bool v = Below(random, 2) == 0;
          repeated ? reflection->AddBool(message, field, v) : reflection->SetBool(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_ENUM: {
          // Now and then a value of a newer version.
          const auto* type = field->enum_type();
          const int v = Below(random, 8) == 0
                            ? 1000
                            : type->value(static_cast<int>(
                                              Below(random, static_cast<uint64_t>(type->value_count()))))
                                  ->number();
          repeated ? reflection->AddEnumValue(message, field, v)
                   : reflection->SetEnumValue(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_STRING: {
          std::string v;
          if (field->type() == FieldDescriptor::TYPE_STRING) {
            v = RandomText(random, Below(random, 12));
          } else if (field->options().GetExtension(events::format) == events::DECIMAL) {
            v = RandomDecimal(random);
          } else {
            v = RandomBytes(random, Below(random, 40));
          }
          repeated ? reflection->AddString(message, field, v)
                   : reflection->SetString(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_MESSAGE:
          FillRandomly(random,
                       repeated ? reflection->AddMessage(message, field)
                                : reflection->MutableMessage(message, field),
                       depth + 1);
          break;
      }
    }
  }
}

// Every field set to something of its own, two elements in every list: the same on every run.
inline void FillFully(google::protobuf::Message* message, uint64_t* next) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message->GetReflection();
  const auto* descriptor = message->GetDescriptor();
  for (int f = 0; f < descriptor->field_count(); ++f) {
    const FieldDescriptor* field = descriptor->field(f);
    const bool repeated = field->is_repeated();
    for (int times = repeated ? 2 : 1; times > 0; --times) {
      const uint64_t n = ++*next;
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT32:
          repeated ? reflection->AddInt32(message, field, -static_cast<int32_t>(n))
                   : reflection->SetInt32(message, field, -static_cast<int32_t>(n));
          break;
        case FieldDescriptor::CPPTYPE_UINT32:
          repeated ? reflection->AddUInt32(message, field, static_cast<uint32_t>(n))
                   : reflection->SetUInt32(message, field, static_cast<uint32_t>(n));
          break;
        case FieldDescriptor::CPPTYPE_INT64:
          repeated ? reflection->AddInt64(message, field, -static_cast<int64_t>(n << 33))
                   : reflection->SetInt64(message, field, -static_cast<int64_t>(n << 33));
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          repeated ? reflection->AddUInt64(message, field, n << 33)
                   : reflection->SetUInt64(message, field, n << 33);
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          repeated ? reflection->AddDouble(message, field, static_cast<double>(n) / 8)
                   : reflection->SetDouble(message, field, static_cast<double>(n) / 8);
          break;
        case FieldDescriptor::CPPTYPE_FLOAT:
          repeated ? reflection->AddFloat(message, field, static_cast<float>(n) / 8)
                   : reflection->SetFloat(message, field, static_cast<float>(n) / 8);
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          repeated ? reflection->AddBool(message, field, true)
                   : reflection->SetBool(message, field, true);
          break;
        case FieldDescriptor::CPPTYPE_ENUM: {
          const auto* type = field->enum_type();
          const int v = type->value(1 + static_cast<int>(n % static_cast<uint64_t>(
                                                                std::max(1, type->value_count() - 1))))
                            ->number();
          repeated ? reflection->AddEnumValue(message, field, v)
                   : reflection->SetEnumValue(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_STRING: {
          std::string v = field->name() + "-" + std::to_string(n);
          if (field->type() == FieldDescriptor::TYPE_BYTES) {
            // Of the length that such a field has.
            const bool decimal = field->options().GetExtension(events::format) == events::DECIMAL;
            const bool hash = field->name().find("hash") != std::string::npos ||
                              field->name().find("root") != std::string::npos;
            const size_t size = decimal ? 9 : hash ? 32 : field->name() == "input_selector" ? 4 : 20;
            v.clear();
            for (size_t i = 0; i < size; ++i) v.push_back(static_cast<char>(n * 31 + i * 7 + 1));
            if (v[0] == 0) v[0] = 1;
          }
          repeated ? reflection->AddString(message, field, v)
                   : reflection->SetString(message, field, v);
          break;
        }
        case FieldDescriptor::CPPTYPE_MESSAGE:
          FillFully(repeated ? reflection->AddMessage(message, field)
                             : reflection->MutableMessage(message, field),
                    next);
          break;
      }
    }
  }
}

}  // namespace leat::test
