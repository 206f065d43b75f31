// Made by tools/higgs-grids.mjs from tools/higgs-grids.json: change that, not this.

/** Points of the grids by dimension and number, in the order that codes index them: float32, little-endian, in base64. */
// biome-ignore format: a table
export const HIGGS_POINTS: Readonly<Record<string, string>> = {
  '1-4':
    'XVXBv8nS577J0uc+XVXBPw==',
  '1-8':
    'erkJwDgFrL+QiUG/+Pl6vvj5ej6QiUE/OAWsP3q5CUA=',
  '1-16':
    'v+IuwMdqBMAlHM+/L8ygvzk9cb9eISi/RK7Gvv15A779eQM+RK7GPl4hKD85PXE/L8ygPyUczz/HagRAv+IuQA==',
  '2-16':
    'VVBmv9Jp0b8fEHa/YMvMPzzm8L9rxC0/Ldy5Pqq/+7+1cC6/YqoTv8EcOj80Yh4/igCsProm6z8zEu4/0DEWPWQ2MD4kr3C/s0bhvy/aH7/UPWa/FTalPrvoVj/leJq+CgjEP36opT9O' +
    'ZZq6NmlnOcW2tj8dnJq/2hslvtb1YD8=',
  '2-64':
    '3C8uwPbGEz6BVES/XhPcPyF8EMBns58/z+udP7fJFsA0xV4/l6WHvrOuuT9mXgtApiSBvUDW8z+JUSJAjF0QP4R+6z518e+/JkTzv1U0nb7+OsA9DyZgP+4m+T90nyy/tpEIQKKkuj8P' +
    'aHE/ZchNvzR3BEDutM6/H85FP2d2YT7t1Ig/pzTDv6RtLj9nOZE/ePjwPvfSJkBioqW/8NnfvqQRu72uDew+YHBKv5zf9775o3c9dNNqv6TjFb9O8yNAUTLrPfQ6KsArb8u/sxEMQH1p' +
    '1j95gDU/eDLkvhXIPj+tT+2/1Tzrv/Aiyr9tNoK/zeSDv7SNyb8bwPm/UrnfPgZ3sL7kmfK/8QK2v/KCRD+5Smu/uYwAP3COUT63Ka8/klAKP0KBKz9a+PE/NwYVPSDS8T4GJh+/u6/T' +
    'vnf7aL7gjy1AQN0Cv1BbiD+G7TE/YQXQPnDXEr5GCKQ/RTAvPtU+kjzHJOC+y5lfPUYWtr8PiJ0+/CudPtUpc7/QK3W/XbMdwLhOd79ui68/2ZLLvne3+L4/aHQ+8c+jP3Glpz8MBw0/' +
    'e8GWv0cxsb8ZGhY+Il/uvlREn7/zeMi+wmE7vz1Fs78GzrE//F5dv+bnhz/X42O/yCuHvOtGfb+q1x3AQwe5P5VQhr/YmSq9E6VQPOQUqb4Lj6E/FokxP1a+4j8=',
  '2-256':
    'DBggwDHbNz4QGi2/J+2iP/+65r+X5UI/PM0JvxqVJsC9bFc/Xi9cvwXKMz+GFlRAeuURP6UBJUCStlJATAMav51gDj9l3eK/r3oGwGCwqzx79es+XcZXPwU3uj84mB2/H3FNQP6ZtT4B' +
    'r2M/0McYv4akXD8PMU3At2uRP6g/dL64EtU/JzJtvwoHvT9usZ8/Y42Gvwv3+D+cFsi/WSCnvq5PO76uoZU+wyJlvxjBsb8YFKi9KC6qv3+P+b4bq70/JKfWvyztNMABvcC/EP/xP1Gx' +
    '6j/ll4Y/QqCnPgVJhj9s8FLAwsAzv3Hj679KpJ2/S4Vbvxit2b8Lco+/rJQlP6qyIr7N6+a/b51avyGDED9pqLW/rRQev1s6ij/TwOQ/jO2VPx1MQD9+XwpAYu9NP//Osj+cM5+/k+dz' +
    'vgr1XD0BeBNASCWiv5IUtj94kBE/xPDAPrilNr+ulgJAO0bRPimSQz9ygpG/O3m5Pj3Mvb9E9dE+DeC4Posay7+VIc+/1bkRwCdLm79pHGs/e0WwvmvMx763FF8+WLlHQOdlpz9DMcs/' +
    'wknTv+4B3L+VTx293lcwv18ZV780U0y/aU2Ov31lGsC/xas/U0Epvwh2fj9Qfam+egkrvlUvGsA86xTAAZzUP5Q4CsCn3nM8RAvHPv0K8zx1d/A/HxaXP53BLEDsH+k/zpMYv46O5b65' +
    '9FRAZy2+viFjCcDeH46/NgkdwC8/yL7bwyo/zRLzPpIVmb/IzVa8vZwhwKVaBcBiBdq/XsuNv1ZFAL6b3tO+wIWXP/ch/b9OGNg/dmzUv6vhCMBn0AQ9cBQnP++saT+tJRw/TALFvgny' +
    '3T7HkIw+5uyNvszB1D2EABJAhtVrvDlWS8BxwKS/amxlv5p0Ej/Y7Wu/9teOPxjQQr+rDRxAPhgTwKmOlr7qIXq/VCxvvyjFjT+7UMa/FctFQN7jJkCARwNABwhtv38ftD/W7TK+dl0K' +
    'P4R4Zb+OvVM/m+QlP2mmgT+pFHs/qCh8vQXjLL6Es4c/+oAVP4rqmTvqP6++5Aafv4INIECOqbs+bKY0vqItrT8lT1w9i000QPyanr9QrRZAKGQhPzMlK7+j+uA/Z4IsP3cV4z6tnBk/' +
    'RR60vazA671ht9M/8w2uPmQnLL1emgm/DnzZvtMtSr8aHYk9BpyZP40OUMBRH5M+iJHOvyAk/T4rEa4/KLmFPoq8E0BPUqw/D1ybv6F09r9iVvq+5SToP7iFP74eNbK+TM+JP9MGiL/H' +
    'Ie4+k24IQMDDBb66+0e/aMCDPQgYxb96MJS+bTYUv8iwG78IFPg+dKssQMuZPb5UzQI+Yd44v0q9Xj/YarM++TBiPmKQ/T6DZiXAO9JMvxhbLD8q1re/harDv4JXhT/vpY+/QoIgv/Cm' +
    'eb8qBGC/v8MowD0dMT8gQxQ+bPorvbEOyL/R7bc/xG/HPrKDCsBE5yy+lzNMP2TyR8Ax1aA/+i4vP9Ax176Znvc/dKz3P1OgRzz66gbAJ5Eiv9FiPD+eWVa/KxcfvyEuqD06f3K/Lrs7' +
    'QGFyv7+1urA//E6Vvsi2ij0st20/N9+YvxVWzD8r3dE/KU2lvmsHsr8Wb6m9iH3oPxv/o7/Vyko/50QHwEnwFD/A2aE/2PT2Pw5bdL6SQmM/M1KYPw+SvD+SvGQ/wIQ2wOsgxr/wx3k+' +
    'G/dBP9ZQBj+C0ybA7k+TPyEltD/7VIe+Ig8EQBQaxz8YaBe70lAFQEh83L8r4Aq/TvyIv025aj8HQ2U/m+VPv2OXLECBIZm+8fnDv0iznT8dM8e/lj3uP9VFsj2BpWI+6ZLnv5d34b7M' +
    'e8W+nFTxvzOamD8MVw9AC06aO/7akT8eKOo+/gXBv1vkST4TkvA+8mbFP6vxoL+sPbi+m+rev18hGr8aoIk/GaBCPr16D0DmRu2+jNm4Pk3YnL3B06e/4zDdPhHPHT8dRns+m5z2vxW3' +
    'pr7XRxa/MXhAvm8Zhr+jTLw+sG6dvy0nnz/b9D0+ZP9oPiPRkrw8SgE+3T2VP5mJAL/dLBm/C8Ozv618QD8avCa+4Ph9P5UlrL9EdE+/1OacPjIZMj+bEOk/eh0ywCV1a77MkbG+3kwf' +
    'QG/+uL9bX5y/jvwLwO+BZD+TYNo/tQQ2wMBSjj+Zgh/AgkwlwKM6BkAKTEw9oc6XvmwVBMAb6Ei/wVLQvgXhaT9jP3u/z2XGvskbtr+s1Ts/J+6cPl4BqD8nqZs/L2/7v4Sym7/nlxU+' +
    'hGUTwC5MwL4+XWw/3swLQNLAS77hb9M/ReE2v8yNyb6K00e/d2QGwK7NZj+WSdq/FaXTPQFJwz8BTPC/Rb8UQJsb9j9ToC9AaXIZv6iYdT4GwKw/g6Bpv0xkYL9SA0zAyhyav30rwr8O' +
    'jbY/4ZwJQPdcuz+mNNU/SIdQPvpk/773/gQ/hnR2vnxLjr+/eZS/XV1ZvwEkLL6FU6M+L9R2v4QEEb9aXRi/5kDRv5nsab+3huE+4/fxvrB0CcDS5/I+k9jqP5EduT/BwJY/J3CIP1X3' +
    'dL9tdcI97lTrv+4Rlz6UyvW+RAd0PHsHBr/nZuK/PrQEQF3tYb/XzChAIndYP5XSJkCU60i/HieYv2/cbj+z+8I+onoIPqxOLz9yCD0/FcahP9iD77v3Tzs+nKKcv1p7UD+fs78/SD0o' +
    'P/Wl9z4p/DK/upwJQKxnTz9yB9E9w5KzvZXeir/0hji/dNQVPRttpD463+Y/qJlIv7Ts1z8=',
};
