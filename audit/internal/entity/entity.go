// Package entity reads the resources that are on record.
package entity

import (
	"strconv"
	"strings"
)

// Split splits a Cedar entity such as Tool::"github__list_prs" into its type and its
// name. Of any other text the type is empty, and the name is the text.
func Split(resource string) (kind, name string) {
	kind, quoted, ok := strings.Cut(resource, `::"`)
	if ok {
		if name, err := strconv.Unquote(`"` + quoted); err == nil {
			return kind, name
		}
	}
	return "", resource
}
