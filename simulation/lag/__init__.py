"""LSC4Rec's lag protocol, and its released request score taken apart."""
