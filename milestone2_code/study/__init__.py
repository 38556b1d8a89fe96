"""Study one: prefix reuse of the same chats as single requests and as whole conversations."""
