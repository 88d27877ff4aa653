// Package catalog knows MCP servers that others offer: where each is, how it
// authenticates, what its tools do to the world, and which policies to begin
// with. It is data, one file a connector, that people reviewed; each fact names
// the public page that says so.
//
//	github, err := catalog.Load("github")
//	server, err := github.Approve(ctx, "", transport)            // the live tools, held to their pins
//	policies, err := github.Starter("standup", &catalog.StarterOptions{
//		Values: map[string][]string{"owners": {"acme"}},
//	})
//	bundle.Catalog = append(bundle.Catalog, server)               // governance.Server
//	bundle.Policies = append(bundle.Policies, policies)           // governance.Source
//
// There is no second notion of anything here: classes, tools, servers and
// policies are those of package governance, and what comes out is a part of a
// [governance.Bundle]. Nothing in this package grants anything by itself.
//
// # Verified and unverified
//
// A verified connector was started from its registry's package, with made-up
// secrets and no network, and its answer to tools/list was recorded. The record
// holds each tool's name, the pin of its whole definition, and its input schema
// without prose. Descriptions belong to their authors and are not copied, not
// even where a license would allow it: [Connector.Approve] takes them from the
// live server and compares pins, so the words in your bundle are the server's
// own and are those that were recorded. A tool that was changed, added or
// removed since is a [DriftError]. [Connector.Server] gives the bare record, to
// compile policies without a server.
//
// An unverified connector is known from public pages alone. Where its tools are
// listed, the list is what those pages say, and [Connector.Review] writes a
// catalogue file of the live server for a person to look at.
//
// # Classes
//
// They are defaults, and cautious:
//
//   - read changes nothing that the service keeps. It may still tell an outsider
//     something: a search sends its words away, and a fetch its URL.
//   - write adds, or changes what can be changed back.
//   - destructive deletes, overwrites what has no history, merges or publishes,
//     spends money, gives access or secrets to others, silences alarms, or runs
//     what its caller writes. A tool of many modes has the class of its worst.
//
// A tool that the catalogue does not know is destructive. What a server says
// about its own tools (readOnlyHint) is nothing to go by.
//
// # Starter policies
//
// [Connector.Starter] permits tools of class read to one profile, tools of class
// write under conditions on their arguments where one makes sense (only these
// owners, channels, folders, hosts, domains), and forbids those that destroy. A
// read that shows too much without a condition, such as any object of a cluster,
// has one too. The tests compile the policies of every verified connector
// against its record, and show that each other read is allowed and that no
// arguments reach what destroys.
//
// # Adding one
//
// Write data/<id>.yaml after one of its kind. If its package can be started
// without an account, record it, and put each tool that the tests then name into
// a class, after reading what it does:
//
//	go run ./mcpx/catalog/internal/recorder/record /tmp/servers mcpx/catalog/data/<id>.yaml
//	go test ./mcpx/catalog -run TestTable -update && go test ./mcpx/catalog
//
// A new version is recorded in the same way: the tools whose pins changed are the
// ones to read again.
//
// # Connectors
//
// "args" are the parameters that [StarterOptions].Values fills.
//
//	id                       status     over     r/  w/  d  auth                     args
//	airtable                 verified   stdio    7/  8/  1  env                      bases
//	airtable-remote          unverified http     -/  -/  -  oauth_authorization_code
//	asana                    verified   stdio   18/ 17/  6  env                      projects
//	asana-remote             unverified sse      -/  -/  -  oauth_authorization_code
//	atlassian-remote         unverified http     8/  0/  0  oauth_authorization_code
//	aws                      unverified http     -/  -/  -  aws_sigv4
//	aws-api                  unverified stdio    1/  0/  1  env
//	aws-knowledge            unverified http     -/  -/  -  none
//	bigquery                 unverified http     -/  -/  -  oauth_authorization_code
//	bitbucket                verified   stdio    1/  1/  4  env
//	box                      unverified http     -/  -/  -  oauth_authorization_code
//	brave-search             verified   stdio    8/  0/  0  env
//	canva                    unverified http     -/  -/  -  oauth_authorization_code
//	chrome-devtools          verified   stdio    8/ 22/  2  none                     hosts
//	circleci                 verified   stdio   10/  1/  2  env
//	clickhouse               unverified stdio    -/  -/  -  env
//	cloudflare-bindings      unverified sse      -/  -/  -  oauth_authorization_code
//	cloudflare-docs          unverified sse      -/  -/  -  none
//	cloudflare-observability unverified sse      -/  -/  -  oauth_authorization_code
//	confluence               unverified stdio   15/  6/  0  env
//	context7                 verified   stdio    2/  0/  0  env
//	datadog                  verified   stdio   17/  2/  2  env
//	datadog-remote           unverified http     -/  -/  -  oauth_authorization_code
//	deepwiki                 unverified sse      -/  -/  -  none
//	discord                  verified   stdio    4/  9/  9  env                      channels
//	dropbox                  unverified http     -/  -/  -  oauth_authorization_code
//	elasticsearch            verified   stdio    4/  0/  0  env
//	everything               verified   stdio    8/  4/  1  none
//	exa                      verified   stdio    2/  0/  0  env
//	fetch                    unverified stdio    1/  0/  0  none                     hosts
//	figma                    verified   stdio    1/  1/  0  env
//	figma-remote             unverified http     6/  2/  1  oauth_authorization_code
//	filesystem               verified   stdio    9/  4/  1  none                     folders
//	firecrawl                verified   stdio   15/  7/  4  env
//	git                      verified   stdio    8/  6/ 14  none
//	git-reference            unverified stdio    7/  3/  2  none                     repositories
//	github                   verified   stdio   14/  9/  3  env                      owners
//	github-remote            unverified http     -/  -/  -  oauth_authorization_code
//	gitlab                   verified   stdio   63/ 34/ 21  env                      projects
//	gitlab-remote            unverified http     -/  -/  -  oauth_authorization_code
//	gke                      unverified http     -/  -/  -  oauth_authorization_code
//	gmail                    verified   stdio    5/  8/  6  oauth_authorization_code domains
//	google-calendar          verified   stdio    7/  4/  2  oauth_authorization_code calendars
//	google-drive             verified   stdio    1/  0/  0  oauth_authorization_code
//	google-drive-remote      unverified http     6/  2/  0  oauth_authorization_code
//	google-maps              verified   stdio    7/  0/  0  env
//	grafana                  unverified stdio    -/  -/  -  env
//	hubspot                  verified   stdio   14/  7/  0  env                      objects
//	hubspot-remote           unverified http     -/  -/  -  oauth_authorization_code
//	hugging-face             unverified http     -/  -/  -  none
//	intercom                 unverified sse      -/  -/  -  oauth_authorization_code
//	jira                     verified   stdio    1/  1/  3  env
//	kubernetes               verified   stdio   13/  1/  6  none                     kinds namespaces
//	launchdarkly             verified   stdio   10/  5/  5  bearer
//	linear                   verified   stdio   79/ 70/ 49  env                      teams
//	linear-remote            unverified http     -/  -/  -  oauth_authorization_code
//	memory                   verified   stdio    3/  3/  3  none
//	microsoft-365            verified   stdio   40/ 36/ 25  oauth_authorization_code
//	microsoft-365-mail       unverified http     -/  -/  -  oauth_authorization_code
//	microsoft-learn          unverified http     -/  -/  -  none
//	monday                   verified   stdio   31/ 41/ 20  env
//	monday-remote            unverified sse      -/  -/  -  oauth_authorization_code
//	mongodb                  verified   stdio   13/  6/  8  env                      databases
//	neon                     unverified http     -/  -/  -  oauth_authorization_code
//	netlify                  verified   stdio    6/  0/  3  env
//	netlify-remote           unverified http     -/  -/  -  oauth_authorization_code
//	netsuite                 unverified http     -/  -/  -  oauth_authorization_code
//	notion                   verified   stdio   14/  5/  5  env                      blocks
//	notion-remote            unverified http     -/  -/  -  oauth_authorization_code
//	pagerduty                unverified http     -/  -/  -  header
//	pagerduty-local          unverified stdio    -/  -/  -  env
//	paypal                   unverified sse      -/  -/  -  oauth_authorization_code
//	perplexity               verified   stdio    4/  0/  0  env
//	pinecone                 verified   stdio    7/  1/  1  env                      indexes
//	plaid                    unverified sse      -/  -/  -  oauth_authorization_code
//	playwright               verified   stdio    7/ 14/  4  none                     hosts
//	postgres                 verified   stdio    0/  1/  0  none
//	puppeteer                verified   stdio    1/  5/  1  none                     hosts
//	redis                    unverified stdio    -/  -/  -  env
//	salesforce               unverified http     6/  3/  1  oauth_authorization_code
//	sentry                   verified   stdio    6/  2/  1  env                      organizations
//	sentry-remote            unverified http     -/  -/  -  oauth_authorization_code
//	sequential-thinking      verified   stdio    1/  0/  0  none
//	servicenow               unverified http     -/  -/  -  oauth_authorization_code
//	shopify-dev              verified   stdio    4/  1/  0  none
//	shopify-storefront       unverified http     4/  1/  0  none
//	slack                    verified   stdio    5/  3/  0  env                      channels
//	slack-remote             unverified http     -/  -/  -  oauth_authorization_code
//	snowflake                unverified http     -/  -/  -  oauth_authorization_code
//	square                   unverified sse      -/  -/  -  oauth_authorization_code
//	stripe                   unverified http     6/  0/  2  oauth_authorization_code
//	supabase                 unverified http     -/  -/  -  oauth_authorization_code
//	tavily                   verified   stdio    5/  0/  0  env
//	time                     unverified stdio    2/  0/  0  none
//	todoist                  verified   stdio   15/ 15/  6  env
//	trello                   verified   stdio   22/ 28/  7  env                      lists
//	twilio                   verified   stdio  103/  2/ 92  basic                    numbers
//	vercel                   unverified http     -/  -/  -  oauth_authorization_code
//	webflow                  unverified sse      -/  -/  -  oauth_authorization_code
//	workday                  unverified http     3/  1/  0  oauth_refresh_token
//	zendesk                  unverified stdio    -/  -/  -  env
package catalog
