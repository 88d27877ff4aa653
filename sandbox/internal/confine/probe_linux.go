//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"errors"
	"os"
	"slices"
)

// Probe builds a room as Launch does and reports the layers that cannot be had,
// with the reason, and the version of Landlock. One room shows the first layer
// that fails; the layers that a room can do without are looked for one by one.
func Probe() (map[Layer]error, int) {
	missing := map[Layer]error{}
	abi, err := landlockABI()
	if err != nil {
		missing[LayerLandlock] = &LayerError{Layer: LayerLandlock, Err: err}
	}
	dir, err := os.MkdirTemp("", "sandbox-probe-")
	if err != nil {
		missing[LayerMount] = &LayerError{Layer: LayerMount, Step: "make a workspace", Err: err}
		return missing, abi
	}
	defer os.RemoveAll(dir)
	optional := []Layer{LayerRlimits, LayerNoNewPrivs, LayerCaps, LayerLandlock, LayerSeccomp, LayerNetwork, LayerCgroup}
	spec := &Spec{Hostname: "sandbox", Workspace: dir, OwnWorkspace: true, Optional: optional}
	b, err := Launch(context.Background(), spec)
	if layer := failed(missing, err); layer == LayerProc { // what about all the others?
		spec.Tier = TierMaskedProc
		b, err = Launch(context.Background(), spec)
		failed(missing, err)
	}
	if err != nil {
		return missing, abi
	}
	defer b.Close()
	defer b.closeListeners()
	for _, l := range optional {
		if missing[l] == nil && !slices.Contains(b.report.Layers, l) {
			missing[l] = &LayerError{Layer: l, Err: errors.New("it could not be put in force")}
		}
	}
	return missing, abi
}

// failed notes the layer that an error is about.
func failed(missing map[Layer]error, err error) Layer {
	if err == nil {
		return ""
	}
	var le *LayerError
	if !errors.As(err, &le) || le.Layer == "" {
		le = &LayerError{Layer: LayerUser, Step: "start init", Err: err}
	}
	missing[le.Layer] = le
	return le.Layer
}

// ProbeShared makes a room of [TierNoNamespaces] and reports why it cannot be had.
func ProbeShared() error {
	dir, err := os.MkdirTemp("", "sandbox-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = errors.Join(os.Chmod(dir, 0o711), os.Mkdir(dir+"/work", 0o700), os.Mkdir(dir+"/tmp", 0o700), os.Mkdir(dir+"/etc", 0o755))
	if err != nil {
		return err
	}
	b, err := Launch(context.Background(), &Spec{Tier: TierNoNamespaces, Workspace: dir + "/work", OwnWorkspace: true, Side: dir, ProxyPort: 1})
	if err != nil {
		return err
	}
	b.Close()
	b.closeListeners()
	return nil
}
