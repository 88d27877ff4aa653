package egress

// HTTPRules say which requests of a host are allowed.
type HTTPRules struct{}

// equal reports whether two sets of rules allow the same.
func (r *HTTPRules) equal(o *HTTPRules) bool { return (r == nil) == (o == nil) }
