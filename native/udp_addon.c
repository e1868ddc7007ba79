/* The tunnel of udp_tunnel.h for src/native.ts. The thread never touches JavaScript: it only counts. */
#include "addon.h"
#include "udp_tunnel.h"
#include <errno.h>
#include <linux/if.h>
#include <stdlib.h>
#include <string.h>

/* What the JavaScript handle holds; the tunnel is NULL once closed. */
typedef struct {
  struct tunnel *tunnel;
} Handle;

static void close_tunnel(Handle *handle) {
  if (handle->tunnel) tunnel_destroy(handle->tunnel);
  handle->tunnel = NULL;
}

static void on_collected(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  close_tunnel(data);
  free(data);
}

static bool handle_argument(napi_env env, napi_value value, Handle **handle) {
  return napi_get_value_external(env, value, (void **)handle) == napi_ok && *handle != NULL;
}

static bool uint_argument(napi_env env, napi_value value, uint32_t *number) {
  return napi_get_value_uint32(env, value, number) == napi_ok;
}

/* tunnelCreate(): handle or -errno */
static napi_value create(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value value;
  Handle *handle = calloc(1, sizeof *handle);
  if (!handle) return result(env, -ENOMEM);
  handle->tunnel = tunnel_create();
  if (!handle->tunnel || napi_create_external(env, handle, on_collected, NULL, &value) != napi_ok) {
    on_collected(env, handle, NULL);
    return result(env, -ENOMEM);
  }
  return value;
}

/* tunnelOpenDevice(handle, name or pattern, own address): the device's name, or -errno */
static napi_value open_device(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], value;
  Handle *handle;
  uint32_t own;
  char name[IFNAMSIZ] = "";
  size_t length;
  if (!arguments(env, info, 3, args) || !handle_argument(env, args[0], &handle) ||
      napi_get_value_string_latin1(env, args[1], name, sizeof name, &length) != napi_ok ||
      !uint_argument(env, args[2], &own))
    return misuse(env);
  if (!handle->tunnel) return result(env, -EBADF);
  int error = tunnel_open_device(handle->tunnel, name, own);
  if (error < 0) return result(env, error);
  return napi_create_string_latin1(env, name, NAPI_AUTO_LENGTH, &value) == napi_ok ? value : NULL;
}

/* tunnelBind(handle, address, port): 0 or -errno */
static napi_value bind_socket(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Handle *handle;
  uint32_t address, port;
  if (!arguments(env, info, 3, args) || !handle_argument(env, args[0], &handle) ||
      !uint_argument(env, args[1], &address) || !uint_argument(env, args[2], &port) || port > UINT16_MAX)
    return misuse(env);
  return result(env, handle->tunnel ? tunnel_bind(handle->tunnel, address, (uint16_t)port) : -EBADF);
}

/* tunnelSetPeers(handle, bytes): 0 or -errno; the bytes are an array of struct peer */
static napi_value set_peers(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Handle *handle;
  void *data;
  size_t size;
  if (!arguments(env, info, 2, args) || !handle_argument(env, args[0], &handle) ||
      !bytes_argument(env, args[1], &data, &size) || size % sizeof(struct peer) != 0)
    return misuse(env);
  return result(env, handle->tunnel ? tunnel_set_peers(handle->tunnel, data, size / sizeof(struct peer)) : -EBADF);
}

/* tunnelCounters(handle): an array in the order of enum counter, or -errno */
static napi_value counters(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], array;
  Handle *handle;
  if (!arguments(env, info, 1, args) || !handle_argument(env, args[0], &handle)) return misuse(env);
  if (!handle->tunnel) return result(env, -EBADF);
  if (napi_create_array_with_length(env, COUNTERS, &array) != napi_ok) return NULL;
  for (uint32_t i = 0; i < COUNTERS; i++) {
    napi_value number = result(env, (int64_t)tunnel_counter(handle->tunnel, i));
    if (!number || napi_set_element(env, array, i, number) != napi_ok) return NULL;
  }
  return array;
}

/* tunnelClose(handle): undefined; closing twice is closing once */
static napi_value close_handle(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Handle *handle;
  if (!arguments(env, info, 1, args) || !handle_argument(env, args[0], &handle)) return misuse(env);
  close_tunnel(handle);
  return NULL;
}

bool define_tunnel(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"tunnelCreate", NULL, create, NULL, NULL, NULL, napi_enumerable, NULL},
      {"tunnelOpenDevice", NULL, open_device, NULL, NULL, NULL, napi_enumerable, NULL},
      {"tunnelBind", NULL, bind_socket, NULL, NULL, NULL, napi_enumerable, NULL},
      {"tunnelSetPeers", NULL, set_peers, NULL, NULL, NULL, napi_enumerable, NULL},
      {"tunnelCounters", NULL, counters, NULL, NULL, NULL, napi_enumerable, NULL},
      {"tunnelClose", NULL, close_handle, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  return napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) == napi_ok;
}
