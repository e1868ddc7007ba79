import type { Namespace } from './namespace.ts'

/**
 * All that flanneld keeps in a node's kernel, as text: equal before and after means that nothing was written. nft numbers
 * its rules (handles), so that one which was deleted and made again shows too.
 */
export async function kernelState(node: Namespace): Promise<Readonly<Record<string, string>>> {
  const rules = await node.run('nft', '-a', 'list', 'ruleset')
  return {
    link: await node.ip('-d link show flannel.1'),
    address: await node.ip('-4 address show dev flannel.1'),
    routes: await node.ip('route'),
    neighbours: await node.ip('neigh show nud permanent'),
    fdb: await node.bridge('fdb show dev flannel.1'),
    // Packets go on meanwhile, and are counted.
    rules: rules.replaceAll(/counter packets \d+ bytes \d+/g, 'counter'),
  }
}

/** The device of a node, as `ip` shows it. */
export async function linkOf(
  node: Namespace,
): Promise<{ readonly index: number; readonly mac: string; readonly mtu: number }> {
  const [link] = await node.ipJson<{ ifindex: number; address: string; mtu: number }>('link show flannel.1')
  if (!link) throw new Error('no flannel.1')
  return { index: link.ifindex, mac: link.address, mtu: link.mtu }
}
