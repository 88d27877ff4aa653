package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The three MCP servers behind the gateway, as a vendor would host them: each
// passes the credential of the request on to its API, and holds none itself.

type (
	pullsArgs struct {
		Owner string `json:"owner" jsonschema:"the account that owns the repository"`
		Repo  string `json:"repo" jsonschema:"the repository's name"`
	}
	pullArgs struct {
		Owner  string `json:"owner" jsonschema:"the account that owns the repository"`
		Repo   string `json:"repo" jsonschema:"the repository's name"`
		Number int    `json:"number" jsonschema:"the pull request's number"`
	}
	branchArgs struct {
		Owner  string `json:"owner" jsonschema:"the account that owns the repository"`
		Repo   string `json:"repo" jsonschema:"the repository's name"`
		Branch string `json:"branch" jsonschema:"the branch to delete"`
	}
	postArgs struct {
		Channel string `json:"channel" jsonschema:"the channel, with its #"`
		Text    string `json:"text" jsonschema:"what to post"`
	}
	userArgs struct {
		User string `json:"user" jsonschema:"whose conversation"`
	}
	deleteArgs struct {
		Channel string `json:"channel" jsonschema:"the channel, with its #"`
		TS      string `json:"ts" jsonschema:"the message's timestamp"`
	}
	queryArgs struct {
		Statement string `json:"statement" jsonschema:"the SQL to run"`
	}
)

// servers returns the MCP servers by name. api is the base URL of the vendors.
func servers(api string) map[string]*mcp.Server {
	github := mcp.NewServer(&mcp.Implementation{Name: "github", Version: "1.0.0"}, nil)
	tool(github, "list_pull_requests", "List the open pull requests of a repository.", func(a pullsArgs) apiCall {
		return apiCall{"GET", fmt.Sprintf("%s/github/repos/%s/%s/pulls", api, a.Owner, a.Repo), nil}
	})
	tool(github, "get_pull_request", "Read one pull request.", func(a pullArgs) apiCall {
		return apiCall{"GET", fmt.Sprintf("%s/github/repos/%s/%s/pulls/%d", api, a.Owner, a.Repo, a.Number), nil}
	})
	tool(github, "delete_branch", "Delete a branch.", func(a branchArgs) apiCall {
		return apiCall{"DELETE", fmt.Sprintf("%s/github/repos/%s/%s/branches/%s", api, a.Owner, a.Repo, a.Branch), nil}
	})

	slack := mcp.NewServer(&mcp.Implementation{Name: "slack", Version: "1.0.0"}, nil)
	tool(slack, "post_message", "Post a message to a channel.", func(a postArgs) apiCall {
		return apiCall{"POST", api + "/slack/chat.postMessage", a}
	})
	tool(slack, "read_direct_messages", "Read a direct conversation.", func(a userArgs) apiCall {
		return apiCall{"GET", api + "/slack/im.history?user=" + a.User, nil}
	})
	tool(slack, "delete_message", "Delete a message.", func(a deleteArgs) apiCall {
		return apiCall{"POST", api + "/slack/chat.delete", a}
	})

	snowflake := mcp.NewServer(&mcp.Implementation{Name: "snowflake", Version: "1.0.0"}, nil)
	tool(snowflake, "run_query", "Run a SQL statement.", func(a queryArgs) apiCall {
		return apiCall{"POST", api + "/snowflake/statements", a}
	})
	return map[string]*mcp.Server{"github": github, "slack": slack, "snowflake": snowflake}
}

// serveMCP serves one server over streamable HTTP on loopback.
func serveMCP(s *mcp.Server) *httptest.Server {
	return httptest.NewServer(mcp.NewStreamableHTTPHandler(
		func(*http.Request) *mcp.Server { return s },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}))
}

// An apiCall is the vendor request that one tool call becomes.
type apiCall struct {
	method, url string
	body        any
}

func tool[In any](s *mcp.Server, name, description string, call func(In) apiCall) {
	mcp.AddTool(s, &mcp.Tool{Name: name, Description: description},
		func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
			text, err := call(in).do(ctx, req.GetExtra().Header.Get("Authorization"))
			if err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
		})
}

func (c apiCall) do(ctx context.Context, authorization string) (string, error) {
	body, err := json.Marshal(c.body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", authorization)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if res.StatusCode >= 400 {
		return "", fmt.Errorf("the vendor answered %s: %s", res.Status, text)
	}
	return string(text), nil
}
