package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/governance"
)

func initCommand() command {
	fs := flags("init")
	server := fs.String("server", "", "what policies call the server: a-z, 0-9 and -")
	agent := fs.String("agent", "my-agent", "the first agent")
	profile := fs.String("profile", "first", "the profile that it is in")
	return command{fs, 1, 2, func(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
		if *server == "" {
			return fmt.Errorf("%w: -server is missing", errUsage)
		}
		if entries, err := os.ReadDir(args[0]); err == nil && len(entries) > 0 {
			return fmt.Errorf("%s is not empty: nothing in it is touched", args[0])
		}
		text, err := readAll(append(args, "")[1], in)
		if err != nil {
			return err
		}
		files, err := starter(*server, *agent, *profile, text)
		if err != nil {
			return err
		}
		for _, f := range files {
			path := filepath.Join(args[0], filepath.FromSlash(f.Name))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(f.Text), 0o644); err != nil {
				return err
			}
			fmt.Fprintln(out, f.Name)
		}
		var c checked
		c.folder(ctx, args[0], nil)
		if !c.OK {
			return fmt.Errorf("the bundle was written, but does not hold yet: run check on it")
		}
		return nil
	}}
}

// readTools reads the answer to tools/list: the list, the result around it, or
// the JSON-RPC response around that.
func readTools(text []byte) ([]governance.ToolDefinition, error) {
	var tools []governance.ToolDefinition
	if json.Unmarshal(text, &tools) == nil {
		return tools, nil
	}
	var result struct {
		Tools  []governance.ToolDefinition `json:"tools"`
		Result struct {
			Tools []governance.ToolDefinition `json:"tools"`
		} `json:"result"`
	}
	if err := json.Unmarshal(text, &result); err != nil {
		return nil, fmt.Errorf("the tools: %w", err)
	}
	if tools = append(result.Tools, result.Result.Tools...); len(tools) == 0 {
		return nil, errors.New("the tools: there are none: want the answer to tools/list")
	}
	return tools, nil
}

// guess takes a server's word for the class of a tool, with the defaults of the
// MCP specification, and says so.
func guess(d governance.ToolDefinition) (governance.Class, string) {
	var hints struct {
		ReadOnly    bool  `json:"readOnlyHint"`
		Destructive *bool `json:"destructiveHint"`
	}
	if len(d.Annotations) > 0 && json.Unmarshal(d.Annotations, &hints) != nil {
		return governance.Destructive, "its annotations cannot be read"
	}
	switch {
	case hints.ReadOnly:
		return governance.Read, "the server says readOnlyHint"
	case hints.Destructive != nil && !*hints.Destructive:
		return governance.Write, "the server says that it is not destructive"
	}
	return governance.Destructive, "the server does not say that it is harmless"
}

// starter are the files of a new bundle.
func starter(server, agent, profile string, text []byte) ([]governance.Source, error) {
	tools, err := readTools(text)
	if err != nil {
		return nil, err
	}
	cat := governance.Server{Name: server}
	var review, names strings.Builder
	for _, d := range tools {
		class, why := guess(d)
		cat.Tools = append(cat.Tools, governance.Tool{ToolDefinition: d, Class: class})
		fmt.Fprintf(&review, "- [ ] %s: %s (%s)\n", d.Name, class, why)
		fmt.Fprintf(&names, "%s, ", quote(d.Name))
	}
	var catalog bytes.Buffer
	enc := json.NewEncoder(&catalog)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(cat); err != nil {
		return nil, err
	}
	first, _ := json.MarshalIndent([]map[string]any{{
		"name":     "until somebody permits something, nothing is permitted",
		"agent":    agent,
		"action":   "list_tools",
		"server":   server,
		"expect":   "deny",
		"reason":   "no-permit",
		"policies": []string{},
	}}, "", "  ")
	return []governance.Source{
		{Name: "REVIEW.md", Text: "# To review before anything is permitted\n\nThe classes in catalog/" + server + ".json are guesses from what the server says of itself.\n" +
			"Tick a tool when a person has looked at what it does, and correct its \"class\".\n\n" + review.String()},
		{Name: "catalog/" + server + ".json", Text: catalog.String()},
		{Name: "profiles/" + profile + ".yaml", Text: "# What exists for these agents. A profile grants nothing: policies permit.\nid: " + quote(profile) +
			"\nagents: [" + quote(agent) + "]\nservers:\n  " + server + ":\n    tools: [" + strings.TrimSuffix(names.String(), ", ") + "]\n"},
		{Name: "policies/" + server + ".cedar", Text: `// Nothing is permitted until a policy permits it, such as this one:
//
// @id("` + server + `-read")
// permit (
//   principal in Profile::` + quote(profile) + `,
//   action in Action::"` + server + `:read",
//   resource in Server::"` + server + `"
// );

// A forbid beats every permit, also those that somebody adds one day.
@id("nothing-destructive")
forbid (
  principal,
  action in Action::"destructive",
  resource
);
`},
		{Name: "tests/first.json", Text: string(first) + "\n"},
	}, nil
}

// quote writes a string for YAML and Cedar, of which names need no more.
func quote(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}
