/* What the addon's C files need of Node-API. */
#pragma once
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_ARGS 4

/* udp_addon.c; false when Node refuses. */
bool define_tunnel(napi_env env, napi_value exports);

static inline napi_value result(napi_env env, int64_t value) {
  napi_value number;
  return napi_create_int64(env, value, &number) == napi_ok ? number : NULL;
}

/* A wrong type here is a defect of src/native.ts: say so in JavaScript instead of crashing. */
static inline napi_value misuse(napi_env env) {
  napi_throw_type_error(env, NULL, "flannel.node: bad argument");
  return NULL;
}

static inline bool arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values) {
  size_t got = MAX_ARGS;
  return napi_get_cb_info(env, info, &got, values, NULL, NULL) == napi_ok && got >= count;
}

static inline bool int_argument(napi_env env, napi_value value, int32_t *number) {
  return napi_get_value_int32(env, value, number) == napi_ok;
}

static inline bool bytes_argument(napi_env env, napi_value value, void **data, size_t *length) {
  napi_typedarray_type type;
  bool typed = false;
  return napi_is_typedarray(env, value, &typed) == napi_ok && typed &&
         napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok &&
         type == napi_uint8_array;
}
