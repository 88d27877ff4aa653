package export_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A schema is an extract of the OCSF schema: see testdata/README.md.
type schema struct {
	Version     string
	ClassUID    int `json:"class_uid"`
	CategoryUID int `json:"category_uid"`
	Class       ocsfType
	Objects     map[string]ocsfType
}

type ocsfType struct {
	Attributes  map[string]attribute
	Constraints map[string][]string
}

type attribute struct {
	Type, Base, Object, Profile string
	Required, Array, Deprecated bool
	Enum                        []string
}

func readSchema(t testing.TB, version string) schema {
	text, err := os.ReadFile("testdata/ocsf-" + version + ".json")
	require.NoError(t, err)
	var s schema
	require.NoError(t, json.Unmarshal(text, &s))
	require.Equal(t, version, s.Version)
	return s
}

// check returns what in an event is not as the schema says.
func (s schema) check(event map[string]any) (wrong []string) {
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	meta, _ := event["metadata"].(map[string]any)
	var profiles []string
	list, _ := meta["profiles"].([]any)
	for _, p := range list {
		profiles = append(profiles, fmt.Sprint(p))
	}
	var walk func(path string, t ocsfType, o map[string]any)
	walk = func(path string, t ocsfType, o map[string]any) {
		for name, a := range t.Attributes {
			if _, ok := o[name]; !ok && a.Required && (a.Profile == "" || slices.Contains(profiles, a.Profile)) {
				add("%s%s is required", path, name)
			}
		}
		for name, v := range o {
			a, ok := t.Attributes[name]
			switch {
			case !ok:
				add("%s%s is no attribute", path, name)
				continue
			case a.Deprecated:
				add("%s%s is deprecated", path, name)
			case a.Profile != "" && !slices.Contains(profiles, a.Profile):
				add("%s%s is of the profile %s, which is not named", path, name, a.Profile)
			}
			values := []any{v}
			if a.Array {
				values, ok = v.([]any)
				if !ok {
					add("%s%s is no array", path, name)
				}
			}
			for _, v := range values {
				switch a.Type {
				case "object":
					inner, ok := v.(map[string]any)
					if !ok {
						add("%s%s is no object", path, name)
						continue
					}
					if sub, known := s.Objects[a.Object]; known && name != "unmapped" {
						walk(path+name+".", sub, inner)
					} else if name != "unmapped" {
						add("%s%s: the extract lacks the object %s", path, name, a.Object)
					}
				case "integer_t", "long_t", "timestamp_t":
					if n, ok := v.(float64); !ok || n != float64(int64(n)) {
						add("%s%s is no integer: %v", path, name, v)
					}
				case "boolean_t":
					if _, ok := v.(bool); !ok {
						add("%s%s is no boolean", path, name)
					}
				default:
					if _, ok := v.(string); !ok && a.Type != "json_t" {
						add("%s%s is no string: %v", path, name, v)
					}
				}
				// The class and the category number themselves in the compiled schema only.
				if len(a.Enum) > 0 && name != "class_uid" && name != "category_uid" && !slices.Contains(a.Enum, fmt.Sprint(v)) {
					add("%s%s = %v is not in %v", path, name, v, a.Enum)
				}
			}
		}
		if names := t.Constraints["at_least_one"]; len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { _, ok := o[n]; return ok }) {
			add("%sneeds one of %v", path, names)
		}
	}
	walk("", s.Class, event)
	if event["class_uid"] != float64(s.ClassUID) || event["category_uid"] != float64(s.CategoryUID) {
		add("class %v of category %v", event["class_uid"], event["category_uid"])
	}
	if event["type_uid"] != float64(s.ClassUID)*100+event["activity_id"].(float64) {
		add("type_uid %v of activity %v", event["type_uid"], event["activity_id"])
	}
	if meta["version"] != s.Version {
		add("metadata.version %v", meta["version"])
	}
	slices.Sort(wrong)
	return wrong
}
