import type { Namespace } from './namespace.ts'

/** A container as docker would make it: a namespace on the node's docker0 bridge, with an address of the lease. */
export interface Pod {
  readonly namespace: Namespace
  readonly address: string
  readonly node: Namespace
}

/**
 * Gives `node` a docker0 bridge with subnet.env's FLANNEL_SUBNET (when it has none) and puts `pod` behind it.
 * `number` is the host part of its address, 2 or more. All devices get FLANNEL_MTU, as docker's `--mtu` does.
 */
export async function connectPod(options: {
  readonly node: Namespace
  readonly pod: Namespace
  readonly subnetEnv: Readonly<Record<string, string>>
  readonly number: number
}): Promise<Pod> {
  const { node, pod, subnetEnv, number } = options
  const gateway = subnetEnv.FLANNEL_SUBNET ?? ''
  const mtu = subnetEnv.FLANNEL_MTU ?? ''
  const [bridgeAddress = '', length] = gateway.split('/')
  const address = bridgeAddress.replace(/\.\d+$/, `.${number}`)
  const links = await node.ipJson<{ readonly ifname: string }>('link show')
  if (!links.some(({ ifname }) => ifname === 'docker0')) {
    await node.ipBatch([
      'link add docker0 type bridge',
      `address add ${gateway} dev docker0`,
      `link set docker0 mtu ${mtu} up`,
    ])
    await node.run('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')
  }
  await pod.ipBatch([
    `link add eth0 mtu ${mtu} type veth peer name pod${number} netns ${node.name}`,
    `address add ${address}/${length} dev eth0`,
    'link set eth0 up',
  ])
  await node.ip(`link set pod${number} mtu ${mtu} master docker0 up`)
  await pod.ip(`route add default via ${bridgeAddress}`)
  return { namespace: pod, address, node }
}
