// Runs oidc-provider on a loopback port until standard input ends. The first line
// of standard input is its options; the first line of output is its issuer.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';

console.info = console.warn = console.error; // the first line of output is the issuer
const { default: Provider } = await import('oidc-provider');

const jwk = (kind, options, extra) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...extra,
});

function start(options) {
  const server = createServer();
  server.listen(0, '127.0.0.1', () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const config = {
      clients: options.clients ?? [],
      jwks: { keys: [jwk('ec', { namedCurve: 'P-256' }, { kid: 'ec', alg: 'ES256' }), jwk('rsa', { modulusLength: 2048 }, { kid: 'rsa', alg: 'RS256' })] },
      clientDefaults: { id_token_signed_response_alg: 'ES256', grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
      cookies: { keys: ['test'] },
      findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub, email: `${sub}@example.com`, email_verified: true }) }),
      features: {
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        revocation: { enabled: true },
        dPoP: { enabled: true },
        devInteractions: { enabled: true },
        resourceIndicators: {
          enabled: true,
          useGrantedResource: () => true,
          getResourceServerInfo: (_, resource) => ({
            scope: 'read write', audience: resource, accessTokenTTL: 300,
            accessTokenFormat: options.opaque ? 'opaque' : 'jwt', jwt: { sign: { alg: options.alg ?? 'ES256' } },
          }),
        },
      },
      ttl: { ClientCredentials: 300, AccessToken: 300 },
    };
    if (options.edit) new Function('config', 'issuer', options.edit)(config, issuer);
    const provider = new Provider(issuer, config);
    provider.on('server_error', (_, err) => console.error(err));
    provider.on('grant.error', (_, err) => console.error(err.message, err.error_detail ?? ''));
    server.on('request', provider.callback());
    console.log(issuer);
  });
}

const lines = createInterface({ input: process.stdin });
lines.once('line', (line) => start(JSON.parse(line)));
lines.on('close', () => process.exit(0));
