package export

// The parts of the OCSF schema that are written here.
type (
	ocsfEvent struct {
		ActivityID   int            `json:"activity_id"`
		ActivityName string         `json:"activity_name"`
		CategoryUID  int            `json:"category_uid"`
		CategoryName string         `json:"category_name"`
		ClassUID     int            `json:"class_uid"`
		ClassName    string         `json:"class_name"`
		TypeUID      int            `json:"type_uid"`
		SeverityID   int            `json:"severity_id"`
		Time         int64          `json:"time"` // milliseconds
		StatusID     int            `json:"status_id"`
		Status       string         `json:"status,omitempty"`
		StatusCode   string         `json:"status_code,omitempty"`
		StatusDetail string         `json:"status_detail,omitempty"`
		Message      string         `json:"message"`
		Metadata     ocsfMetadata   `json:"metadata"`
		Actor        ocsfActor      `json:"actor"`
		API          ocsfAPI        `json:"api"`
		SrcEndpoint  ocsfEndpoint   `json:"src_endpoint"`
		DstEndpoint  *ocsfEndpoint  `json:"dst_endpoint,omitempty"`
		Resources    []ocsfNamed    `json:"resources,omitempty"`
		ActionID     int            `json:"action_id"`
		Disposition  int            `json:"disposition_id"`
		Policy       *ocsfPolicy    `json:"policy,omitempty"`
		AIAgent      *ocsfAgent     `json:"ai_agent,omitempty"`
		AIModel      *ocsfModel     `json:"ai_model,omitempty"`
		Trace        *ocsfUID       `json:"trace,omitempty"`
		Attestations []ocsfAttest   `json:"attestation_list,omitempty"`
		Unmapped     map[string]any `json:"unmapped,omitempty"`
	}
	ocsfMetadata struct {
		Version     string      `json:"version"`
		Product     ocsfProduct `json:"product"`
		Profiles    []string    `json:"profiles"`
		UID         string      `json:"uid"`
		Correlation string      `json:"correlation_uid,omitempty"`
		LogName     string      `json:"log_name"`
		Sequence    uint64      `json:"sequence"`
	}
	ocsfProduct struct {
		Name   string `json:"name"`
		Vendor string `json:"vendor_name"`
	}
	ocsfActor struct {
		AppUID         string              `json:"app_uid,omitempty"`
		AppName        string              `json:"app_name,omitempty"`
		User           *ocsfUser           `json:"user,omitempty"`
		Session        *ocsfSession        `json:"session,omitempty"`
		Authorizations []ocsfAuthorization `json:"authorizations,omitempty"`
	}
	ocsfUser struct {
		Name string `json:"name"`
		UID  string `json:"uid"`
	}
	ocsfSession struct {
		UID    string `json:"uid,omitempty"`
		Issuer string `json:"issuer,omitempty"`
	}
	ocsfAuthorization struct {
		Decision string     `json:"decision"`
		Policy   ocsfPolicy `json:"policy"`
	}
	ocsfPolicy struct {
		UID     string `json:"uid"`
		Name    string `json:"name"`
		Desc    string `json:"desc,omitempty"`
		Version string `json:"version,omitempty"`
	}
	ocsfAPI struct {
		Operation string      `json:"operation"`
		Service   *ocsfNamed  `json:"service,omitempty"`
		Request   *ocsfUID    `json:"request,omitempty"`
		Response  *ocsfAnswer `json:"response,omitempty"`
	}
	ocsfAnswer struct {
		Error string `json:"error,omitempty"`
	}
	ocsfEndpoint struct {
		Name        string `json:"name,omitempty"`
		Hostname    string `json:"hostname,omitempty"`
		InstanceUID string `json:"instance_uid,omitempty"`
	}
	ocsfNamed struct {
		Name string `json:"name"`
		Type string `json:"type,omitempty"`
	}
	ocsfAgent struct {
		UID         string `json:"uid"`
		InstanceUID string `json:"instance_uid,omitempty"`
	}
	ocsfModel struct {
		Provider string `json:"ai_provider"`
		Name     string `json:"name"`
	}
	ocsfUID struct {
		UID string `json:"uid"`
	}
	ocsfAttest struct {
		UID         string          `json:"uid"`
		Chain       string          `json:"chain_uid"`
		Fingerprint ocsfFingerprint `json:"fingerprint"`
	}
	ocsfFingerprint struct {
		AlgorithmID int    `json:"algorithm_id"`
		Algorithm   string `json:"algorithm"`
		Value       string `json:"value"`
	}
)

// Numbers of the schema's enumerations.
const (
	ocsfCategory, ocsfClass            = 6, 6003
	activityRead, activityOther        = 2, 99
	statusUnknown, statusOK, statusBad = 0, 1, 2
	actionAllowed, actionDenied        = 1, 2
	dispositionAllowed, blocked        = 1, 2
	actionNone                         = 0
	algorithmOther                     = 99
)
